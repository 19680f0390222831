# The databases' own clients, each in its strictest TLS.
set -e
user() { echo "$1" | sed 's|.*//\([^:]*\):.*|\1|'; }
secret() { echo "$1" | sed 's|.*//[^:]*:\([^@]*\)@.*|\1|'; }
tls="sslmode=verify-full&sslrootcert=$SSL_CERT_FILE"
seq 1000 > numbers
psql -X -q -A -t "$POSTGRES_URL?$tls" <<SQL
CREATE TEMP TABLE t (n int);
\copy t FROM numbers
\copy t TO again
SELECT 'psql ' || current_user || ' ' || count(*) FROM t;
SQL
cmp numbers again
psql -X -q -A -t "$POSTGRES_URL?$tls&channel_binding=require" -c "SELECT 'channel bound'"
my="--no-defaults -h db.example.com -P 3306 -u $(user "$MYSQL_URL") --ssl-ca=$SSL_CERT_FILE --ssl-verify-server-cert -N"
MYSQL_PWD=$(secret "$MYSQL_URL") mariadb $my d -e "SELECT CONCAT('mariadb ', CURRENT_USER())"
MYSQL_PWD=wrong mariadb $my d -e "SELECT 1" 2>&1 | grep -o "ERROR 1045 (28000)"
rd="redis-cli -h db.example.com -p 6379 --tls --sni db.example.com --cacert $SSL_CERT_FILE --user alice --no-auth-warning"
export REDISCLI_AUTH=$(secret "$REDIS_URL")
$rd ACL WHOAMI
$rd -3 ECHO resp3
seq 20000 | sed 's/.*/SET cli& x/' | $rd --pipe | tail -1
REDISCLI_AUTH=wrong $rd PING 2>&1 | grep -o -m1 WRONGPASS
