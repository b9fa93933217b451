package tsgrpc

import (
	"bytes"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	pb "github.com/dramnode/dramnode/gateway/tsgrpc/kvstorepb"
)

// A pool counts what has not come back.
type pool struct{ out int }

func (p *pool) Get(n int) *[]byte { p.out++; b := make([]byte, n); return &b }
func (p *pool) Put(*[]byte)       { p.out-- }

// cut makes buffers of a message, each of so many bytes, as the transport has them.
func cut(b []byte, step int, p *pool) (parts mem.BufferSlice) {
	for len(b) > 0 {
		n := min(step, len(b))
		parts, b = append(parts, mem.Copy(b[:n], p)), b[n:]
	}
	return parts
}

// check compares a message with what package proto makes of it, in buffers of step bytes, and that all memory is
// given back.
func check(t *testing.T, b []byte, step int) {
	t.Helper()
	var want pb.WriteRequest
	wantErr := proto.Unmarshal(b, &want)
	var p pool
	in := cut(b, step, &p)
	var got writePart
	if err := (codec{}).Unmarshal(in, &got); err != nil {
		t.Fatal(err)
	}
	in.Free()
	if (got.err != nil) != (wantErr != nil) {
		t.Fatalf("error %v, want %v", got.err, wantErr)
	}
	if got.err == nil {
		value := make([]byte, got.value.bytes)
		if rest := got.value.copyTo(value); len(rest) != 0 {
			t.Errorf("%d bytes are left", len(rest))
		}
		if !bytes.Equal(got.key, want.Key) || !bytes.Equal(got.condition, want.GenerationIfEqual) || !bytes.Equal(value, want.ValuePart) || got.size != len(b) {
			t.Errorf("%q %q and %d bytes of value, want %v", got.key, got.condition, len(value), &want)
		}
	}
	got.value.release()
	if p.out != 0 {
		t.Errorf("%d buffers are not given back", p.out)
	}
}

func TestWritePart(t *testing.T) {
	long := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	field := func(b []byte, n protowire.Number, v []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), v)
	}
	message := field(field(field(nil, 1, []byte("key")), 2, []byte{2}), 3, long)
	for name, b := range map[string][]byte{
		"nothing": {}, "usual": message, "value first": field(field(nil, 3, long), 1, []byte("k")), "twice": field(message, 3, []byte("last")),
		"unknown field": field(message, 9, long), "a number": protowire.AppendVarint(protowire.AppendTag(bytes.Clone(message), 1, protowire.VarintType), 7),
		"cut": message[:len(message)-1], "long length": append(bytes.Clone(message), 0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01),
		"longer length": append(bytes.Clone(message), 0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02), "tag only": append(bytes.Clone(message), 0x1a),
		"empty value": field(field(nil, 1, []byte("k")), 3, nil), "long tag": append(bytes.Clone(message), 0x9a, 0x00, 0x01, 'x'),
		"group": append(bytes.Clone(message), 0x0b, 0x0c), "end of no group": append(bytes.Clone(message), 0x0c),
	} {
		t.Run(name, func(t *testing.T) {
			for _, step := range []int{1, 5, 1000, 4 << 10, 16 << 10, 1 << 20, len(b) + 1} {
				if step >= 1000 || len(b) < 1000 {
					check(t, b, step)
				}
			}
		})
	}
}

func FuzzWritePart(f *testing.F) {
	for _, m := range []*pb.WriteRequest{{}, {Key: []byte("k"), GenerationIfEqual: []byte{2}, ValuePart: make([]byte, 5000)}} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, uint16(100), uint16(0))
		f.Add(b, uint16(5000), uint16(0))
	}
	f.Add([]byte{0x1a, 0x80, 0x80, 0x01}, uint16(9000), uint16(1<<14))
	f.Fuzz(func(t *testing.T, b []byte, step, more uint16) {
		b = append(b, make([]byte, more)...) // so that long values are met
		check(t, b, int(step)+1)
	})
}

// TestReadPart looks at a part of a value on its way out: it is what package proto would write, and long ones
// are the value's own memory.
func TestReadPart(t *testing.T) {
	value := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	l := &lease{conn: &conn{}, patience: patience, held: true}
	for _, c := range []struct {
		m     valuePart
		parts int
	}{
		{valuePart{first: &pb.ReadResponse{State: pb.ReadResponse_VALUE}, bytes: value, from: l}, 2},
		{valuePart{bytes: value[:100]}, 1}, {valuePart{first: &pb.ReadResponse{State: pb.ReadResponse_VALUE}}, 1}, {valuePart{}, 1},
		{valuePart{bytes: value[copyBytes : 3*copyBytes], from: l}, 2},
	} {
		out, err := codec{}.Marshal(&c.m)
		if err != nil || len(out) != c.parts {
			t.Fatalf("%d buffers, %v; want %d", len(out), err, c.parts)
		}
		var got pb.ReadResponse
		if err := proto.Unmarshal(out.Materialize(), &got); err != nil || got.State != c.m.first.GetState() || !bytes.Equal(got.ValuePart, c.m.bytes) {
			t.Errorf("%v with %d bytes, %v", got.State, len(got.ValuePart), err)
		}
		if c.parts == 2 && &out[1].ReadOnlyData()[0] != &c.m.bytes[0] {
			t.Error("the value was copied")
		}
		out.Free()
		if l.parts != 0 {
			t.Errorf("%d parts are not given back", l.parts)
		}
	}
	m := valuePart{bytes: value, from: l}
	if n := testing.AllocsPerRun(100, func() {
		out, err := codec{}.Marshal(&m)
		if err != nil {
			t.Fatal(err)
		}
		out.Free()
	}); n > 6 {
		t.Errorf("%v allocations for a part", n)
	}
}
