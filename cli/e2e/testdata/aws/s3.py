# Uploads and reads objects with boto3, configured by the environment.
import io, urllib.request

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

bucket = "bucket"
small, large = b"0123456789abcdef" * 60, b"0123456789abcdef" * (17 << 16)


def check(client, key, want):
    got = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    assert got == want, "%s: read %d bytes, want %d others" % (key, len(got), len(want))
    print(key, "ok")


s3 = boto3.client("s3")
s3.put_object(Bucket=bucket, Key="py-bytes", Body=small)
check(s3, "py-bytes", small)
s3.put_object(Bucket=bucket, Key="py-trailer é+", Body=io.BytesIO(small), ChecksumAlgorithm="CRC32")
check(s3, "py-trailer é+", small)
signing = boto3.client("s3", config=Config(s3={"payload_signing_enabled": True}))
signing.put_object(Bucket=bucket, Key="py-signed", Body=large[:300000])
check(s3, "py-signed", large[:300000])
path = boto3.client("s3", config=Config(s3={"addressing_style": "path"}))
path.put_object(Bucket=bucket, Key="py-path//x", Body=small)
check(path, "py-path//x", small)
s3.upload_fileobj(io.BytesIO(large), bucket, "py-parts", Config=TransferConfig(multipart_threshold=8 << 20))
check(s3, "py-parts", large)

# boto3 1.26 makes URLs of one host for the world, and with Signature Version 2, unless it is told otherwise.
s3 = boto3.client("s3", endpoint_url="https://s3.eu-west-1.amazonaws.com", config=Config(signature_version="s3v4"))
url = s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "py-url"})
urllib.request.urlopen(urllib.request.Request(url, data=small, method="PUT"))
url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "py-url"})
assert urllib.request.urlopen(url).read() == small
print("py-url ok")

for o in s3.list_objects_v2(Bucket=bucket, Prefix="py-")["Contents"]:
    s3.delete_object(Bucket=bucket, Key=o["Key"])
    print("deleted", o["Key"])
print(boto3.client("sts", region_name="us-east-1", endpoint_url="https://sts.us-east-1.amazonaws.com").get_caller_identity()["Arn"])
