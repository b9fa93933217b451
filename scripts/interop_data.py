"""Real arrays through a cluster: from netCDF by xarray into zarr through the face FACE ("resp" or "s3") of one node,
and back through another node by zarr, boto3 and GDAL, byte for byte.

Usage: interop_data.py FACE FILE...; where the faces are is in RESP_PORTS, URL (to write) and OTHER_URL (to read).
"""
import collections.abc
import os
import sys

face, files = sys.argv[1], sys.argv[2:]
write_url, read_url = os.environ["URL"], os.environ["OTHER_URL"]
os.environ.update(AWS_S3_ENDPOINT=read_url.removeprefix("http://"), AWS_HTTPS="NO", AWS_VIRTUAL_HOSTING="FALSE")

import boto3
import numcodecs
import xarray
import zarr
from botocore.config import Config
from osgeo import gdal

gdal.UseExceptions()


def s3_at(url):
    return boto3.client("s3", endpoint_url=url, config=Config(signature_version="s3v4", s3={"addressing_style": "path"}))


class Objects(collections.abc.MutableMapping):
    """The objects under a prefix of a bucket, as zarr 2 likes to see them."""

    def __init__(self, s3, bucket, prefix):
        self.s3, self.bucket, self.prefix = s3, bucket, prefix

    def __getitem__(self, key):
        try:
            return self.s3.get_object(Bucket=self.bucket, Key=self.prefix + key)["Body"].read()
        except self.s3.exceptions.NoSuchKey:
            raise KeyError(key)

    def __setitem__(self, key, value):
        self.s3.put_object(Bucket=self.bucket, Key=self.prefix + key, Body=bytes(value))

    def __delitem__(self, key):
        self.s3.delete_object(Bucket=self.bucket, Key=self.prefix + key)

    def __iter__(self):
        for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix):
            for o in page.get("Contents", []):
                yield o["Key"][len(self.prefix):]

    def __len__(self):
        return sum(1 for _ in self)


def same(name, who, got, want):
    assert got.dtype == want.dtype and got.shape == want.shape and got.tobytes() == want.tobytes(), f"{name} by {who} differs"


write_port, read_port = os.environ["RESP_PORTS"].split()
bucket = f"data-{face}"
writer, reader = s3_at(write_url), s3_at(read_url)
writer.create_bucket(Bucket=bucket)
arrays = bytes_ = 0
for path in files:
    name = os.path.basename(path).split(".")[0]
    # Redis keys are PREFIX:KEY, so this prefix makes them objects of the bucket.
    if face == "resp":
        into, back = (zarr.RedisStore(prefix=f"{bucket}/{name}", port=int(p)) for p in (write_port, read_port))
    else:
        into, back = Objects(writer, bucket, name + "/"), Objects(reader, bucket, name + "/")
    separator = ":" if face == "resp" else "/"
    with xarray.open_dataset(path, engine="netcdf4", decode_cf=False) as dataset:
        numbers = dataset[[v for v in dataset.data_vars if dataset[v].dtype.kind in "iuf" and dataset[v].ndim > 0]].load()
    for v in numbers.variables:
        numbers[v].encoding = {"compressor": numcodecs.Zlib(1)}  # which GDAL of Debian reads too
    numbers.to_zarr(into, mode="w", consolidated=False)
    again = xarray.open_zarr(back, consolidated=False, decode_cf=False).load()
    beside = Objects(reader, bucket, name + separator)
    assert set(beside) == {k for k in back}, f"{name}: boto3 sees other keys"
    for v in numbers.data_vars:
        want = numbers[v].values
        same(v, "zarr", again[v].values, want)
        same(v, "boto3", zarr.Array(beside, path=v, read_only=True)[...], want)
        array = gdal.OpenEx(f'ZARR:"/vsis3/{bucket}/{name}{separator}{v}"', gdal.OF_MULTIDIM_RASTER).GetRootGroup().OpenMDArray(v if face == "s3" else f"{name}:{v}")
        same(v, "GDAL", array.ReadAsArray().reshape(want.shape), want)
        arrays, bytes_ = arrays + 1, bytes_ + want.nbytes
assert arrays > 0
print(f"{arrays} arrays, {bytes_} bytes, equal")
