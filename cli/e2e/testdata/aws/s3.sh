# Uploads and reads objects with AWS's command line, configured by the environment.
set -e
head -c 17825792 /dev/zero | tr '\0' a > large
aws s3 cp --no-progress large "s3://bucket/cli parts"
aws s3 cp --no-progress "s3://bucket/cli parts" back
cmp large back
curl -sf "$(aws s3 presign "s3://bucket/cli parts")" | cmp - large && echo presigned
