"""What scripts/interop.sh does with boto3, against the S3 face at $URL."""
import os
import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

url, work = os.environ["URL"], os.environ["WORK"]
s3 = boto3.client("s3", endpoint_url=url, config=Config(signature_version="s3v4", s3={"addressing_style": "path"}))


def refused(code, call, **arguments):
    try:
        call(**arguments)
    except ClientError as e:
        assert e.response["Error"]["Code"] == code, e
        return
    raise AssertionError(f"{arguments} was not refused with {code}")


s3.create_bucket(Bucket="boto3")
put = s3.put_object(Bucket="boto3", Key="k/ü €", Body=b"hello", ContentType="text/plain", Metadata={"who": "me"})
got = s3.get_object(Bucket="boto3", Key="k/ü €", IfMatch=put["ETag"])
assert got["Body"].read() == b"hello" and got["ContentType"] == "text/plain" and got["Metadata"] == {"who": "me"}, got
again = s3.put_object(Bucket="boto3", Key="k/ü €", Body=b"hello")
assert again["ETag"] != put["ETag"], "an ETag repeats"
refused("PreconditionFailed", s3.get_object, Bucket="boto3", Key="k/ü €", IfMatch=put["ETag"])
refused("304", s3.get_object, Bucket="boto3", Key="k/ü €", IfNoneMatch=again["ETag"])
refused("InvalidRange", s3.get_object, Bucket="boto3", Key="k/ü €", Range="bytes=5-")
refused("NoSuchKey", s3.get_object, Bucket="boto3", Key="missing")
refused("NoSuchBucket", s3.get_object, Bucket="nowhere", Key="missing")
refused("404", s3.head_object, Bucket="boto3", Key="missing")
assert s3.get_object(Bucket="boto3", Key="k/ü €", Range="bytes=-2")["Body"].read() == b"lo"

s3.upload_file(work + "/big", "boto3", "big")  # in parts
s3.download_file("boto3", "big", "back")
assert open("back", "rb").read() == open(work + "/big", "rb").read()
s3.copy({"Bucket": "boto3", "Key": "big"}, "boto3", "copy")  # in parts, from parts
assert s3.head_object(Bucket="boto3", Key="copy")["ContentLength"] == os.path.getsize(work + "/big")

for i in range(25):
    s3.put_object(Bucket="boto3", Key=f"list/{i % 5}/{i:02}", Body=b"")
pages = s3.get_paginator("list_objects_v2")
keys = [o["Key"] for p in pages.paginate(Bucket="boto3", Prefix="list/", PaginationConfig={"PageSize": 7}) for o in p["Contents"]]
assert len(keys) == 25 and keys == sorted(keys), keys
folded = [c["Prefix"] for p in pages.paginate(Bucket="boto3", Prefix="list/", Delimiter="/", PaginationConfig={"PageSize": 2}) for c in p["CommonPrefixes"]]
assert folded == [f"list/{i}/" for i in range(5)], folded
old = [o["Key"] for p in s3.get_paginator("list_objects").paginate(Bucket="boto3", Prefix="list/", PaginationConfig={"PageSize": 7}) for o in p["Contents"]]
assert old == keys, old

signed = s3.generate_presigned_url("get_object", Params={"Bucket": "boto3", "Key": "k/ü €"}, ExpiresIn=60)
from urllib.request import urlopen

assert urlopen(signed).read() == b"hello"

everything = [{"Key": o["Key"]} for o in s3.list_objects_v2(Bucket="boto3")["Contents"]]
gone = s3.delete_objects(Bucket="boto3", Delete={"Objects": everything})
assert len(gone["Deleted"]) == len(everything) and "Errors" not in gone, gone
s3.delete_bucket(Bucket="boto3")
assert "boto3" not in [b["Name"] for b in s3.list_buckets()["Buckets"]]
