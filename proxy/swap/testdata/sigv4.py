"""Writes sigv4.json: requests as botocore signs them with placeholders, and as it
signs the same ones with the real keys. Run it with Debian's python3-botocore."""
import datetime
import json
import types

import botocore.auth
import botocore.awsrequest
import botocore.credentials

NOW = datetime.datetime(2026, 11, 23, 12, 0, 0)

class Clock(datetime.datetime):
    """The clock of botocore, old (Debian 12's) and new."""

    @classmethod
    def utcnow(cls):
        return NOW


botocore.auth.get_current_datetime = lambda *a, **k: NOW
botocore.auth.datetime = types.SimpleNamespace(datetime=Clock)

FAKE = ("AKIA7aRkEr99accessaccessaccessaccess", "ssv_7aRkEr99secretsecretsecretsecretsecret", "ssv_7aRkEr99tokentokentokentokentoken")
REAL = ("AKIAREALREALREALREAL", "real/Secret+Key/of/forty/characters/xxxx", "FwoGZXIvYXdzEREAL//token+==")

S3 = "https://bucket.s3.us-east-1.amazonaws.com"
CASES = [
    ("s3 get", "s3", "GET", S3 + "/key", {}, b"", "header"),
    ("s3 odd key", "s3", "GET", S3 + "/a%20b/%C3%A9//x+y%3D/..%2F~", {}, b"", "header"),
    ("s3 list", "s3", "GET", S3 + "/?list-type=2&prefix=a%2Fb%20c&delimiter=%2F&marker", {}, b"", "header"),
    ("s3 put", "s3", "PUT", S3 + "/key", {"Content-Type": "text/plain"}, b"hello", "header"),
    ("s3 put unsigned", "s3", "PUT", S3 + "/key", {"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"}, b"hello", "header"),
    ("s3 put with a trailer", "s3", "PUT", S3 + "/key", {"X-Amz-Content-SHA256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "X-Amz-Trailer": "x-amz-checksum-crc32"}, b"", "header"),
    ("s3 presigned", "s3", "GET", S3 + "/a%20key?versionId=x", {}, b"", "query"),
    ("s3 presigned put", "s3", "PUT", S3 + "/key", {}, b"hello", "query"),
    ("s3 presigned, version 2", "s3", "GET", S3 + "/a%20key?versionId=x%2By&x-id=1", {}, b"", "v2"),
    ("s3 presigned put, version 2", "s3", "PUT", S3 + "/key", {"Content-Type": "text/plain", "x-amz-acl": "private"}, b"hello", "v2"),
    ("s3 presigned in the path, version 2", "s3", "GET", "https://s3.us-east-1.amazonaws.com/bucket/key?acl", {}, b"", "v2"),
    ("sts", "sts", "POST", "https://sts.amazonaws.com/", {"Content-Type": "application/x-www-form-urlencoded"}, b"Action=GetCallerIdentity&Version=2011-06-15", "header"),
    ("sts presigned", "sts", "GET", "https://sts.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15", {"x-k8s-aws-id": "cluster"}, b"", "query"),
    ("dynamodb", "dynamodb", "POST", "https://dynamodb.eu-west-1.amazonaws.com/", {"X-Amz-Target": "DynamoDB_20120810.ListTables", "Content-Type": "application/x-amz-json-1.0"}, b"{}", "header"),
    ("lambda arn", "lambda", "POST", "https://lambda.us-east-1.amazonaws.com/2015-03-31/functions/arn%3Aaws%3Alambda%3Aus-east-1%3A1%3Afunction%3Af/invocations", {}, b'{"a":1}', "header"),
    ("bedrock", "bedrock", "POST", "https://bedrock-runtime.us-east-1.amazonaws.com/model/us.anthropic.claude-sonnet-4-20250514-v1%3A0/invoke-with-response-stream", {"Content-Type": "application/json", "X-Amzn-Bedrock-Accept": "*/*"}, b'{"max_tokens":1}', "header"),
    ("a path with dots", "execute-api", "GET", "https://x.execute-api.us-east-1.amazonaws.com/a/./b/../c%20d//e/", {}, b"", "header"),
    ("spaces in a value", "execute-api", "GET", "https://x.execute-api.us-east-1.amazonaws.com/", {"X-Note": "a   b  c"}, b"", "header"),
]


def sign(keys, token, case):
    name, service, method, url, headers, body, kind = case
    request = botocore.awsrequest.AWSRequest(method=method, url=url, data=body if kind == "header" else None, headers=dict(headers))
    credentials = botocore.credentials.Credentials(keys[0], keys[1], keys[2] if token else None)
    classes = {
        ("s3", "header"): botocore.auth.S3SigV4Auth, ("s3", "query"): botocore.auth.S3SigV4QueryAuth,
        ("", "header"): botocore.auth.SigV4Auth, ("", "query"): botocore.auth.SigV4QueryAuth,
    }
    if kind == "v2":
        auth = botocore.auth.HmacV1QueryAuth(credentials)
        auth._get_date = lambda: "1795470398"
        if "//bucket." in url:
            request.auth_path = "/bucket" + url.split("amazonaws.com")[1].split("?")[0]
        auth.add_auth(request)
        return described(request)
    auth = classes["s3" if service == "s3" else "", kind](credentials, service, "us-east-1")
    if service == "s3" and kind == "header" and "X-Amz-Content-SHA256" in headers:
        auth._should_sha256_sign_payload = lambda request: False
        auth.payload = lambda request: headers["X-Amz-Content-SHA256"]
    auth.add_auth(request)
    return described(request)


def described(request):
    host = request.url.split("/")[2]
    target = request.url[len("https://" + host):]
    fields = [["Host", host]] + [[k, str(v)] for k, v in request.headers.items()]
    return {"target": target, "fields": fields}


def main():
    out = []
    for case in CASES:
        for token in (False, True):
            out.append({
                "name": case[0] + (" with a token" if token else ""), "method": case[2], "body": case[5].decode(),
                "fake": sign(FAKE, token, case), "real": sign(REAL, token, case),
            })
    with open("sigv4.json", "w") as f:
        json.dump(out, f, indent=1)
        f.write("\n")


main()
