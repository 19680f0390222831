# $1 is --http1.1 or --http2.
set -e
echo "env=$ANTHROPIC_API_KEY"
ask() { curl -sS --fail-with-body "$@" -H "x-api-key: $ANTHROPIC_API_KEY"; }
ask "$1" https://api.anthropic.com/v1/messages -d '{}'
echo
echo "echo=$(ask "$1" -i https://api.anthropic.com/echo)"
