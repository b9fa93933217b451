# The Python clients of the face: redis-py, zarr 2 and xarray, with what Debian has of them.
# Usage: clients.py PORT
import sys

import numpy
import redis
import xarray
import zarr

port = int(sys.argv[1])
r = redis.Redis(port=port)
assert r.ping()
assert r.set("text", "hello", ex=100) and r.get("text") == b"hello" and 0 < r.ttl("text") <= 100
assert r.set("text", "other", nx=True) is None
assert r.incr("n") == 1 and r.incrby("n", 41) == 42
assert r.mset({"a": 1, "b": 2}) and r.mget("a", "b", "c") == [b"1", b"2", None]
assert sorted(r.scan_iter("[ab]")) == [b"a", b"b"]
assert r.getrange("text", 1, -2) == b"ell" and r.append("text", "!") == 6
with r.pipeline(transaction=False) as p:
    for i in range(1000):
        p.set(f"p{i}", i)
        p.get(f"p{i}")
    assert p.execute()[1::2] == [str(i).encode() for i in range(1000)]
try:
    r.lpush("list", 1)
    raise SystemExit("LPUSH is served")
except redis.ResponseError as e:
    assert "unknown command" in str(e), e
assert r.info()["redis_version"] and r.dbsize() == len(r.keys("*"))
assert r.delete("text", "n", "a", "b", *(f"p{i}" for i in range(1000))) == 1004

store = zarr.RedisStore(prefix="zarr", port=port)
group = zarr.group(store=store, overwrite=True)
data = numpy.random.default_rng(1).normal(size=(300, 400))
array = group.create_dataset("deep/array", data=data, chunks=(64, 100))
assert group["deep"].attrs.asdict() == {} and list(group.groups())[0][0] == "deep"
array[10:20, 30:40] = 0
data[10:20, 30:40] = 0
again = zarr.open_group(zarr.RedisStore(prefix="zarr", port=port), mode="r")
numpy.testing.assert_array_equal(again["deep/array"][...], data)

store = zarr.RedisStore(prefix="xarray", port=port)
dataset = xarray.Dataset(
    {"temperature": (("time", "lat", "lon"), numpy.arange(24.0).reshape(2, 3, 4), {"units": "K"})},
    coords={"lat": [10, 20, 30], "lon": [1, 2, 3, 4]},
    attrs={"title": "a test"},
)
dataset.to_zarr(store, mode="w")
dataset.isel(time=slice(0, 1)).to_zarr(store, append_dim="time")
read = xarray.open_zarr(zarr.RedisStore(prefix="xarray", port=port)).load()
xarray.testing.assert_identical(read.isel(time=slice(0, 2)), dataset)
assert read.sizes["time"] == 3 and not r.keys("nothing*")
print("ok")
