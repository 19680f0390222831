# Makes a user with an access key, and works as that user.
import json, time

import boto3

iam = boto3.client("iam")
iam.create_user(UserName="bob")
everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
iam.put_user_policy(UserName="bob", PolicyName="all", PolicyDocument=json.dumps(everything))
key = iam.create_access_key(UserName="bob")["AccessKey"]
print(key)
bob = boto3.Session(aws_access_key_id=key["AccessKeyId"], aws_secret_access_key=key["SecretAccessKey"])
print(bob.client("sts", region_name="us-east-1", endpoint_url="https://sts.us-east-1.amazonaws.com").get_caller_identity()["Arn"])
bob.client("s3").put_object(Bucket="bucket", Key="bob", Body=b"hello")
print("read", bob.client("s3").get_object(Bucket="bucket", Key="bob")["Body"].read().decode())
