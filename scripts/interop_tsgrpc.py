"""TensorStore's gRPC protocol by Debian's python3-grpcio (C-core, as TensorStore has it), with messages put together
here from the table of fields in docs/tsgrpc.md and nothing generated.

    python3 scripts/interop_tsgrpc.py ADDR put KEY VALUE | get KEY | ls [PREFIX] | del KEY | check
"""
import os
import sys
import time

import grpc

PART = 1 << 20
NO_VALUE, UNSPECIFIED, MISSING, VALUE = b"\x02", 0, 1, 2


def varint(n):
    n &= (1 << 64) - 1
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def message(**fields):
    """f3=b"..." is field 3, of bytes; f3=7 a number. What is None is left out."""
    out = b""
    for name, v in fields.items():
        number = int(name[1:])
        if isinstance(v, bytes):
            out += varint(number << 3 | 2) + varint(len(v)) + v
        elif v is not None:
            out += varint(number << 3) + varint(v)
    return out


def parse(b):
    """The fields of a message, a list of values for each number."""
    fields, at = {}, 0

    def number():
        nonlocal at
        n = shift = 0
        while True:
            byte = b[at]
            at += 1
            n, shift = n | (byte & 127) << shift, shift + 7
            if byte < 128:
                return n

    while at < len(b):
        tag = number()
        value = number()
        if tag & 7 == 2:
            value, at = b[at:at + value], at + value
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def timestamp(t):
    return message(f1=int(t), f2=int(t % 1 * 1e9))


class Store:
    def __init__(self, address):
        self.address = address
        self.channel = grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])
        path = "/tensorstore_grpc.kvstore.KvStoreService/"
        self._read = self.channel.unary_stream(path + "Read")
        self._write = self.channel.stream_unary(path + "Write")
        self._delete = self.channel.unary_unary(path + "Delete")
        self._list = self.channel.unary_stream(path + "List")

    def read(self, key, if_not_equal=None, if_equal=None, bound=None, byte_range=None):
        """(state, generation, time, value)"""
        request = message(f1=key, f2=if_not_equal, f3=if_equal, f4=timestamp(bound) if bound else None,
                          f5=message(f1=byte_range[0], f2=byte_range[1]) if byte_range else None)
        state, stamp, value, seen = UNSPECIFIED, None, b"", 0
        for m in self._read(request, timeout=60):
            m, seen = parse(m), seen + 1
            if not value:
                state, stamp = m.get(3, [0])[0], m[2][0]  # as the driver does it
            value += m.get(4, [b""])[0]
        assert seen > 0, "an answer without a message"
        return (state, *unstamp(stamp), value)

    def write(self, key, value, if_equal=None, fail_after=None):
        def parts():
            first = dict(f1=key, f2=if_equal)
            for i in range(0, max(1, len(value)), PART):
                if fail_after is not None and i >= fail_after:
                    raise RuntimeError("aborted on purpose")
                yield message(**first, f3=value[i:i + PART])
                first = {}
        return unstamp(parse(self._write(parts(), timeout=60))[2][0])[0]

    def delete(self, key, if_equal=None):
        return unstamp(parse(self._delete(message(f1=key, f3=if_equal), timeout=60))[2][0])[0]

    def delete_range(self, low=b"", high=b""):
        self._delete(message(f2=message(f1=low, f2=high)), timeout=60)

    def list(self, low=b"", high=b"", strip=0):
        request = message(f1=message(f1=low, f2=high), f2=strip)
        return [(e.get(1, [b""])[0], e.get(2, [0])[0])
                for m in self._list(request, timeout=60) for e in map(parse, parse(m).get(2, []))]


def unstamp(b):
    m = parse(b)
    t = parse(m[2][0])
    return m.get(1, [b""])[0], t.get(1, [0])[0] + t.get(2, [0])[0] / 1e9


def code(call):
    try:
        call()
    except grpc.RpcError as e:
        return e.code()
    return grpc.StatusCode.OK


def check(s):
    s.delete_range(b"py/", b"py0")
    value = os.urandom(5 * PART + 12345)
    before = time.time()
    g = s.write(b"py/big", value)
    assert len(g) == 9 and g[0] == 0, g
    state, got, at, back = s.read(b"py/big", bound=before)
    assert (state, got, back) == (VALUE, g, value) and before - 1e-3 <= at <= time.time(), (state, got, at)
    assert s.read(b"py/big", byte_range=(PART - 3, PART + 3))[3] == value[PART - 3:PART + 3]
    assert s.read(b"py/big", byte_range=(-7, -1))[3] == value[-7:]
    assert s.read(b"py/big", byte_range=(0, 0))[::3] == (VALUE, b"")
    assert code(lambda: s.read(b"py/big", byte_range=(1, len(value) + 1))) == grpc.StatusCode.OUT_OF_RANGE
    assert code(lambda: s.read(b"py/big", byte_range=(3, 2))) == grpc.StatusCode.INVALID_ARGUMENT
    assert s.read(b"py/big", if_not_equal=g)[:2] == (UNSPECIFIED, g)
    assert s.read(b"py/none")[:2] == (MISSING, NO_VALUE)
    assert s.write(b"py/big", b"x", if_equal=NO_VALUE) == b"" and s.delete(b"py/big", if_equal=b"\0" + b"1" * 8) == b""
    again = s.write(b"py/big", value, if_equal=g)
    assert len(again) == 9 and again != g, "a generation repeats"
    try:
        s.write(b"py/big", value, fail_after=2 * PART)
        raise AssertionError("an aborted write succeeds")
    except grpc.RpcError:
        pass
    assert s.read(b"py/big")[1] == again, "half a value was written"
    assert s.write(b"py/empty", b"", if_equal=NO_VALUE) and s.read(b"py/empty")[::3] == (VALUE, b"")
    assert s.list(b"py/", b"py0") == [(b"py/big", len(value)), (b"py/empty", 0)], s.list(b"py/", b"py0")
    assert [k for k, _ in s.list(b"py/", b"py0", strip=3)] == [b"big", b"empty"]
    assert s.delete(b"py/big", if_equal=again) == NO_VALUE and s.delete(b"py/big") == NO_VALUE
    assert code(lambda: s._delete(b"", timeout=60)) == grpc.StatusCode.INVALID_ARGUMENT
    counter = b"py/counter"  # by compare and set, from two channels
    s.write(counter, b"0")
    other = Store(s.address)
    for i in range(50):
        for c in (s, other):
            while True:
                _, g, _, v = c.read(counter)
                if c.write(counter, b"%d" % (int(v) + 1), if_equal=g):
                    break
    assert s.read(counter)[3] == b"100"
    s.delete_range(b"py/", b"py0")
    assert s.list(b"py/", b"py0") == []


def main(address, command, *args):
    s = Store(address)
    args = [a.encode() for a in args]
    if command == "put":
        print("generation", int.from_bytes(s.write(*args)[1:], "little") > 0)
    elif command == "get":
        state, _, _, value = s.read(*args)
        print(value.decode() if state == VALUE else "no value")
    elif command == "ls":
        prefix = args[0] if args else b""
        for key, size in s.list(prefix, prefix[:-1] + bytes([prefix[-1] + 1]) if prefix else b""):
            print(size, key.decode())
    elif command == "del":
        s.delete(*args)
    elif command == "check":
        check(s)
        print("ok")
    else:
        sys.exit(__doc__)


main(*sys.argv[1:]) if len(sys.argv) > 2 else sys.exit(__doc__)
