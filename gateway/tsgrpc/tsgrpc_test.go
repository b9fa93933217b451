package tsgrpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/gateway"
	"github.com/dramnode/dramnode/gateway/gatewaytest"
	pb "github.com/dramnode/dramnode/gateway/tsgrpc/kvstorepb"
)

func random(bytes int) []byte {
	b := make([]byte, bytes)
	chacha := rand.NewChaCha8([32]byte{1})
	_, _ = chacha.Read(b) // never fails
	return b
}

// TestParts reads and writes values around the lengths at which something changes: all answers are there, and
// no message is longer, nor comes with less, than clients expect.
func TestParts(t *testing.T) {
	u, store := serveNode(t, Config{})
	all := random(7<<20/2 + 1)
	for _, n := range []int{0, 1, copyBytes, copyBytes + 1, partBytes, partBytes + 1, partBytes + copyBytes, 2 * partBytes, len(all)} {
		value := all[:n]
		var parts [][]byte
		for p := range slices.Chunk(value, partBytes) {
			parts = append(parts, p)
		}
		g := u.mustWrite("k", parts...)
		if v, err := store.Get(t.Context(), []byte("k")); err != nil || !bytes.Equal(v.Bytes, value) || !bytes.Equal(encodeGeneration(v.Generation), g) {
			t.Errorf("%d bytes are stored as %d of generation %d, %v; want %x", n, len(v.Bytes), v.Generation, err, g)
		}
		first, got, messages := u.mustRead(&pb.ReadRequest{Key: []byte("k")})
		if !bytes.Equal(got, value) || messages != max(1, len(parts)) || first.State != pb.ReadResponse_VALUE || !bytes.Equal(first.GenerationAndTimestamp.Generation, g) {
			t.Errorf("%d bytes come as %d in %d messages, state %v", n, len(got), messages, first.State)
		}
		if n > 0 && len(first.ValuePart) == 0 {
			t.Error("the first part is empty") // the driver would take state and generation from the second
		}
	}
}

// TestOneAnswer: a read that finds no value is a message all the same.
func TestOneAnswer(t *testing.T) {
	u, _ := serveNode(t, Config{})
	g := u.mustWrite("k", []byte("value"))
	none := []byte{tagAbsent}
	for _, c := range []struct {
		in    *pb.ReadRequest
		state pb.ReadResponse_State
		g     []byte
	}{
		{&pb.ReadRequest{Key: []byte("none")}, pb.ReadResponse_MISSING, none},
		{&pb.ReadRequest{Key: []byte("none"), GenerationIfEqual: g}, pb.ReadResponse_MISSING, none},
		{&pb.ReadRequest{Key: []byte("none"), ByteRange: &pb.ByteRange{InclusiveMin: 3, ExclusiveMax: 9}}, pb.ReadResponse_MISSING, none},
		{&pb.ReadRequest{Key: []byte("k"), GenerationIfNotEqual: g}, pb.ReadResponse_UNSPECIFIED, g},
		{&pb.ReadRequest{Key: []byte("k"), GenerationIfEqual: none}, pb.ReadResponse_UNSPECIFIED, g},
		{&pb.ReadRequest{Key: []byte("k"), GenerationIfEqual: g, GenerationIfNotEqual: g}, pb.ReadResponse_UNSPECIFIED, g},
		{&pb.ReadRequest{Key: []byte("k"), GenerationIfEqual: []byte("\x00mine")}, pb.ReadResponse_UNSPECIFIED, g},
		{&pb.ReadRequest{Key: []byte("k"), GenerationIfNotEqual: g, ByteRange: &pb.ByteRange{InclusiveMin: 3, ExclusiveMax: 9}}, pb.ReadResponse_UNSPECIFIED, g}, // before the range
		{&pb.ReadRequest{Key: []byte("k"), ByteRange: &pb.ByteRange{}}, pb.ReadResponse_VALUE, g},
		{&pb.ReadRequest{Key: []byte("k"), GenerationIfEqual: g, GenerationIfNotEqual: none, ByteRange: &pb.ByteRange{}}, pb.ReadResponse_VALUE, g},
	} {
		before := time.Now()
		first, value, messages := u.mustRead(c.in)
		if messages != 1 || len(value) != 0 || first.State != c.state || !bytes.Equal(first.GenerationAndTimestamp.Generation, c.g) {
			t.Errorf("%v: %d messages, the first %v", c.in, messages, first)
		}
		if at := first.GenerationAndTimestamp.Timestamp.AsTime(); at.Before(before.Truncate(0)) || at.After(time.Now()) {
			t.Errorf("%v: at %v", c.in, at)
		}
	}
}

func TestClockSkew(t *testing.T) {
	u, _ := serveNode(t, Config{ClockSkew: time.Minute})
	now := time.Now()
	for _, c := range []struct {
		bound *timestamppb.Timestamp
		want  time.Time
	}{{nil, now.Add(-time.Minute)}, {timestamppb.New(now), now}, {timestamppb.New(now.Add(-time.Hour)), now.Add(-time.Minute)}} {
		first, _, _ := u.mustRead(&pb.ReadRequest{Key: []byte("k"), StalenessBound: c.bound})
		if at := first.GenerationAndTimestamp.Timestamp.AsTime(); at.Before(c.want.Truncate(0)) || at.After(c.want.Add(patience)) {
			t.Errorf("bound %v: %v, want %v", c.bound.AsTime(), at, c.want)
		}
	}
}

// TestFaults: each fault has a status of its own, and nothing is written.
func TestFaults(t *testing.T) {
	u, store := serveNode(t, Config{})
	u.mustWrite("k", []byte("value"))
	read := func(in *pb.ReadRequest) error { _, _, _, err := u.read(u.ctx(), in); return err }
	write := func(key string, condition []byte, parts ...[]byte) error {
		_, err := u.write(u.ctx(), key, condition, parts...)
		return err
	}
	drop := func(in *pb.DeleteRequest) error { _, err := u.Delete(u.ctx(), in); return err }
	list := func(in *pb.ListRequest) error {
		stream, err := u.List(u.ctx(), in)
		if err == nil {
			_, err = stream.Recv()
		}
		return err
	}
	key, long := []byte("k"), make([]byte, dramnode.MaxKeyBytes+1)
	future := &timestamppb.Timestamp{Seconds: maxSeconds + 1}
	for name, c := range map[string]struct {
		err  error
		want codes.Code
	}{
		"read: no key":              {read(&pb.ReadRequest{}), codes.InvalidArgument},
		"read: long key":            {read(&pb.ReadRequest{Key: long}), codes.InvalidArgument},
		"read: range of no meaning": {read(&pb.ReadRequest{Key: key, ByteRange: &pb.ByteRange{InclusiveMin: 2, ExclusiveMax: 1}}), codes.InvalidArgument},
		"read: no time":             {read(&pb.ReadRequest{Key: key, StalenessBound: future}), codes.InvalidArgument},
		"read: beyond":              {read(&pb.ReadRequest{Key: key, ByteRange: &pb.ByteRange{InclusiveMin: 6, ExclusiveMax: -1}}), codes.OutOfRange},
		"read: across the end":      {read(&pb.ReadRequest{Key: key, ByteRange: &pb.ByteRange{InclusiveMin: 1, ExclusiveMax: 6}}), codes.OutOfRange},
		"read: before the start":    {read(&pb.ReadRequest{Key: key, ByteRange: &pb.ByteRange{InclusiveMin: -6, ExclusiveMax: -1}}), codes.OutOfRange},
		"write: no key":             {write("", nil, []byte("v")), codes.InvalidArgument},
		"write: long key":           {write(string(long), nil, []byte("v")), codes.InvalidArgument},
		"write: too long":           {write("k", nil, slices.Repeat([][]byte{make([]byte, partBytes)}, gatewaytest.MaxValueBytes/partBytes+1)...), codes.InvalidArgument},
		"write: long message":       {write("k", nil, make([]byte, maxMessageBytes)), codes.ResourceExhausted},
		"delete: nothing":           {drop(&pb.DeleteRequest{}), codes.InvalidArgument},
		"delete: long bound":        {drop(&pb.DeleteRequest{Range: &pb.KeyRange{ExclusiveMax: long}}), codes.InvalidArgument},
		"list: long bound":          {list(&pb.ListRequest{Range: &pb.KeyRange{InclusiveMin: long}}), codes.InvalidArgument},
		"list: no time":             {list(&pb.ListRequest{StalenessBound: future}), codes.InvalidArgument},
	} {
		wantCode(t, name, c.err, c.want)
	}
	stream, err := u.Write(u.ctx())
	if err != nil {
		t.Fatal(err)
	}
	_, err = stream.CloseAndRecv()
	wantCode(t, "write: no message", err, codes.InvalidArgument)
	if v, err := store.Get(t.Context(), key); err != nil || string(v.Bytes) != "value" {
		t.Errorf("%q, %v", v.Bytes, err)
	}
}

// A raw codec sends bytes as messages.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error)   { return v.([]byte), nil }
func (raw) Unmarshal(b []byte, v any) error { *v.(*[]byte) = bytes.Clone(b); return nil }
func (raw) Name() string                    { return "proto" }
func rawCall() grpc.CallOption              { return grpc.ForceCodec(raw{}) } //nolint:staticcheck // the simpler of the two
func method(name string) string             { return "/tensorstore_grpc.kvstore.KvStoreService/" + name }
func both() *grpc.StreamDesc                { return &grpc.StreamDesc{ClientStreams: true, ServerStreams: true} }
func (u *user) invoke(name string, b []byte) error {
	var answer []byte
	return u.ClientConn.Invoke(u.ctx(), method(name), b, &answer, rawCall())
}

func TestMalformed(t *testing.T) {
	u, store := serveNode(t, Config{})
	for _, name := range []string{"Read", "Write", "Delete", "List"} {
		for _, b := range []string{"\x0a", "\x0a\x05k", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "\x07", "\x0c"} {
			wantCode(t, fmt.Sprintf("%s %q", name, b), u.invoke(name, []byte(b)), codes.InvalidArgument)
		}
	}
	wantCode(t, "another method", u.invoke("Copy", nil), codes.Unimplemented)
	long := metadata.AppendToOutgoingContext(u.ctx(), "long", strings.Repeat("x", 1<<20))
	_, _, _, err := u.read(long, &pb.ReadRequest{Key: []byte("k")})
	wantCode(t, "a header of 1 MB", err, codes.Internal)
	// A request of two messages, where one is due.
	stream, err := u.NewStream(u.ctx(), both(), method("Delete"), rawCall())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := stream.SendMsg([]byte("\x0a\x01k")); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
	var answer []byte
	if err := errors.Join(stream.CloseSend(), stream.RecvMsg(&answer)); err == nil {
		t.Error("two messages are one request")
	}
	for e, err := range store.List(t.Context(), client.Query{}) {
		t.Errorf("%q was written, %v", e.Key, err)
	}
}

// TestManyParts writes a value in parts of all lengths; most are too short to be kept where they came in.
func TestManyParts(t *testing.T) {
	u, _ := serveNode(t, Config{BufferBytes: maxMessageBytes})
	all := random(3 << 20)
	r := rand.New(rand.NewPCG(1, 2))
	var parts [][]byte
	for left := all; len(left) > 0; {
		n := min(len(left), r.IntN(1<<r.IntN(21)))
		parts, left = append(parts, left[:n]), left[n:]
	}
	var wg sync.WaitGroup
	for i := range 8 { // far more than the budget holds
		wg.Go(func() {
			if _, err := u.write(u.ctx(), fmt.Sprint("k", i), nil, parts...); err != nil {
				t.Errorf("write %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	for i := range 8 {
		if _, got, _ := u.mustRead(&pb.ReadRequest{Key: fmt.Append(nil, "k", i)}); !bytes.Equal(got, all) {
			t.Errorf("value %d comes back as %d others", i, len(got))
		}
	}
}

// TestOnlyTheFirst message of a write has a key and a condition.
func TestOnlyTheFirst(t *testing.T) {
	u, store := serveNode(t, Config{})
	stream, err := u.Write(u.ctx())
	if err != nil {
		t.Fatal(err)
	}
	for i, part := range []string{"a", "b", ""} {
		if err := stream.Send(&pb.WriteRequest{Key: fmt.Append(nil, "k", i), GenerationIfEqual: encodeGeneration(dramnode.Absent + dramnode.Generation(i)), ValuePart: []byte(part)}); err != nil {
			t.Fatal(err)
		}
	}
	// The condition of the first is that there is no value.
	m, err := stream.CloseAndRecv()
	if err != nil || len(m.GenerationAndTimestamp.Generation) != 9 {
		t.Fatalf("%v, %v", m, err)
	}
	if v, err := store.Get(t.Context(), []byte("k0")); err != nil || string(v.Bytes) != "ab" {
		t.Errorf("%q, %v", v.Bytes, err)
	}
}

// TestAborted: a write that does not come to its end changes nothing, whatever ends it.
func TestAborted(t *testing.T) {
	u, store := serveNode(t, Config{stall: time.Second})
	u.mustWrite("k", []byte("before"))
	var socket net.Conn
	dialer := grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
		var d net.Dialer
		nc, err := d.DialContext(ctx, "tcp", addr)
		socket = nc
		return nc, err
	})
	for name, abort := range map[string]func(cancel func(), c *grpc.ClientConn){
		"half closed": func(func(), *grpc.ClientConn) {
			if err := socket.(*net.TCPConn).CloseWrite(); err != nil {
				t.Error(err)
			}
		},
		"cancelled":    func(cancel func(), _ *grpc.ClientConn) { cancel() },
		"disconnected": func(_ func(), c *grpc.ClientConn) { c.Close() },
		"timed out":    func(func(), *grpc.ClientConn) {},
		"silent":       func(func(), *grpc.ClientConn) {},
	} {
		t.Run(name, func(t *testing.T) {
			v := dial(t, u.Target(), dialer)
			ctx, cancel := context.WithTimeout(t.Context(), map[bool]time.Duration{true: 200 * time.Millisecond, false: patience}[name == "timed out"])
			defer cancel()
			stream, err := v.Write(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for i := range 3 {
				if err := stream.Send(&pb.WriteRequest{Key: []byte("k"), ValuePart: random(partBytes + i)}); err != nil && name != "timed out" {
					t.Fatal(err)
				}
			}
			abort(cancel, v.ClientConn)
			err = stream.RecvMsg(&pb.WriteResponse{})
			want := map[string]codes.Code{"cancelled": codes.Canceled, "disconnected": codes.Canceled, "timed out": codes.DeadlineExceeded, "silent": codes.Unavailable, "half closed": codes.Unavailable}[name]
			wantCode(t, name, err, want)
		})
	}
	if v, err := store.Get(t.Context(), []byte("k")); err != nil || string(v.Bytes) != "before" {
		t.Errorf("%d bytes, %v", len(v.Bytes), err)
	}
}

// twoNodes returns a user of node 0 and a key that node 1 owns: what is read of it takes memory of the face's
// client, 8 values at once, and that is missed when it does not come back.
func twoNodes(t *testing.T, cfg Config) (u *user, key []byte, cluster *gatewaytest.Cluster) {
	t.Helper()
	cluster = gatewaytest.NewCluster(t, 2, 128<<20)
	store := cluster.Inside(0)
	u = dial(t, gatewaytest.Serve(t, Serve(cfg), store))
	key = cluster.Owned(1, store, "k")
	u.mustWrite(string(key), slices.Collect(slices.Chunk(random(gatewaytest.MaxValueBytes-100), partBytes))...)
	return u, key, cluster
}

// TestAbandonedReads: clients that go away in the middle of a value leave nothing lent.
func TestAbandonedReads(t *testing.T) {
	u, key, _ := twoNodes(t, Config{})
	for i := range 40 {
		v := u
		if i%2 == 0 { // its connection goes too
			v = dial(t, u.Target())
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		stream, err := v.Read(ctx, &pb.ReadRequest{Key: key})
		if err == nil {
			_, err = stream.Recv()
		}
		if err != nil {
			t.Fatalf("read %d: %v", i, err)
		}
		if v != u {
			v.ClientConn.Close()
		}
		cancel()
	}
	if _, got, _ := u.mustRead(&pb.ReadRequest{Key: key}); len(got) != gatewaytest.MaxValueBytes-100 {
		t.Errorf("%d bytes", len(got))
	}
}

// TestSlowReaders: clients that do not take what they asked for lose their connection, and others get the memory.
func TestSlowReaders(t *testing.T) {
	u, key, _ := twoNodes(t, Config{stall: 500 * time.Millisecond})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for i := range 20 {
		slow := dial(t, u.Target(), grpc.WithInitialWindowSize(64<<10), grpc.WithInitialConnWindowSize(64<<10))
		stream, err := slow.Read(ctx, &pb.ReadRequest{Key: key}) // and never receives
		if err != nil {
			t.Fatalf("read %d: %v", i, err)
		}
		_ = stream
	}
	await(t, "room for another read", func() bool {
		_, got, _, err := u.read(ctx, &pb.ReadRequest{Key: key})
		return err == nil && len(got) == gatewaytest.MaxValueBytes-100
	})
}

func TestSilentRequest(t *testing.T) {
	u, _ := serveNode(t, Config{stall: 100 * time.Millisecond})
	for _, name := range []string{"Read", "Write", "Delete", "List"} {
		stream, err := dial(t, u.Target()).NewStream(u.ctx(), both(), method(name), rawCall())
		if err != nil {
			t.Fatal(err)
		}
		var answer []byte
		wantCode(t, name, stream.RecvMsg(&answer), codes.Unavailable)
	}
}

// TestOwnerDies: requests for a dead node's keys end with their deadline and say so; others go on.
func TestOwnerDies(t *testing.T) {
	u, key, cluster := twoNodes(t, Config{})
	cluster.Kill(1)
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		_, _, _, err := u.read(ctx, &pb.ReadRequest{Key: key})
		if code := status.Code(err); code != codes.DeadlineExceeded && code != codes.Unavailable { // whoever is first to notice
			t.Errorf("read: %v", err)
		}
		cancel()
		ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
		_, err = u.write(ctx, string(key), nil, []byte("v"))
		if code := status.Code(err); code != codes.DeadlineExceeded && code != codes.Unavailable && code != codes.Unknown {
			t.Errorf("write: %v", err)
		}
		cancel()
	}
	own := cluster.Owned(0, cluster.Inside(0), "mine")
	u.mustWrite(string(own), []byte("v"))
}

// When an owner dies in the middle of a read or a write, what was read is never wrong, the write says that it may not be
// applied, and values of other owners stay as they were.
func TestOwnerDiesInRequest(t *testing.T) {
	u, key, cluster := twoNodes(t, Config{})
	own := string(cluster.Owned(0, cluster.Inside(0), "mine"))
	u.mustWrite(own, []byte("v"))
	_, want, _ := u.mustRead(&pb.ReadRequest{Key: key})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	slow := dial(t, u.Target(), grpc.WithInitialWindowSize(64<<10), grpc.WithInitialConnWindowSize(64<<10))
	read, err := slow.Read(ctx, &pb.ReadRequest{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	first, err := read.Recv()
	if err != nil {
		t.Fatal(err)
	}
	write, err := u.Write(ctx)
	if err == nil {
		err = write.Send(&pb.WriteRequest{Key: key, ValuePart: random(partBytes)})
	}
	if err != nil {
		t.Fatal(err)
	}
	cluster.Kill(1)
	got := first.ValuePart
	for err == nil {
		var m *pb.ReadResponse
		if m, err = read.Recv(); err == nil {
			got = append(got, m.ValuePart...)
		}
	}
	if !bytes.HasPrefix(want, got) || errors.Is(err, io.EOF) && len(got) != len(want) {
		t.Errorf("a read of %d bytes ends after %d, %v", len(want), len(got), err)
	}
	if err := write.Send(&pb.WriteRequest{ValuePart: random(partBytes)}); err != nil && !errors.Is(err, io.EOF) {
		t.Errorf("the rest of a write: %v", err)
	}
	_, err = write.CloseAndRecv()
	if code := status.Code(err); code != codes.DeadlineExceeded && code != codes.Unavailable && code != codes.Unknown {
		t.Errorf("the write: %v", err)
	}
	if _, got, _ := u.mustRead(&pb.ReadRequest{Key: []byte(own)}); string(got) != "v" {
		t.Errorf("a value of the other owner is %q", got)
	}
}

func TestLimits(t *testing.T) {
	store := gatewaytest.NewCluster(t, 1, 64<<20).Inside(0)
	f := newFace(Config{MaxConns: 2, MaxInFlight: 3}, store)
	u := dial(t, gatewaytest.Serve(t, func(ctx context.Context, l net.Listener, _ gateway.Store) error { return f.serve(ctx, l) }, store))
	var streams []grpc.ClientStreamingClient[pb.WriteRequest, pb.WriteResponse]
	for range 3 {
		stream, err := u.Write(u.ctx())
		if err == nil {
			err = stream.Send(&pb.WriteRequest{Key: []byte("k")})
		}
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, stream)
	}
	await(t, "three requests to be served", func() bool { return f.inFlight.Load() == 3 })
	_, _, _, err := u.read(u.ctx(), &pb.ReadRequest{Key: []byte("k")})
	wantCode(t, "a fourth request", err, codes.ResourceExhausted)
	for i, s := range streams {
		if _, err := s.CloseAndRecv(); err != nil {
			t.Errorf("stream %d: %v", i, err)
		}
	}
	await(t, "requests to be served again", func() bool {
		_, _, _, err := u.read(u.ctx(), &pb.ReadRequest{Key: []byte("k")})
		return err == nil
	})
	other := dial(t, u.Target())
	other.mustWrite("k", nil)
	nc, err := net.Dial("tcp", u.Target())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := nc.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if n, err := nc.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) || err == nil {
		t.Errorf("a third connection gets %d bytes, %v", n, err)
	}
	other.ClientConn.Close()
	await(t, "room for a connection", func() bool {
		_, _, _, err := dial(t, u.Target()).read(u.ctx(), &pb.ReadRequest{Key: []byte("k")})
		return err == nil
	})
}

func TestConfig(t *testing.T) {
	for _, cfg := range []Config{{ClockSkew: -1}, {ClockSkew: 2 * time.Hour}, {MaxConns: -1}, {MaxInFlight: -1}, {BufferBytes: 1}, {BufferBytes: -1}} {
		if err := cfg.Check(); !errors.Is(err, dramnode.ErrInvalid) {
			t.Errorf("%+v: %v", cfg, err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if err := Serve(cfg)(t.Context(), l, nil); !errors.Is(err, dramnode.ErrInvalid) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
	if err := (Config{}).Check(); err != nil {
		t.Error(err)
	}
}

// TestOldClients reads as releases do that take one message only.
func TestOldClients(t *testing.T) {
	u, _ := serveNode(t, Config{})
	long := random(5 << 20)
	u.mustWrite("fits", long[:oldBytes])
	u.mustWrite("long", slices.Collect(slices.Chunk(long[:oldBytes+1], partBytes))...)
	old := dial(t, u.Target(), grpc.WithUserAgent("tensorstore/0.1.71"), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(4<<20)))
	if _, got, messages := old.mustRead(&pb.ReadRequest{Key: []byte("fits")}); messages != 1 || !bytes.Equal(got, long[:oldBytes]) {
		t.Errorf("%d bytes in %d messages", len(got), messages)
	}
	_, _, _, err := old.read(old.ctx(), &pb.ReadRequest{Key: []byte("long")})
	wantCode(t, "a long value", err, codes.FailedPrecondition)
	if _, got, messages := u.mustRead(&pb.ReadRequest{Key: []byte("long")}); messages != 4 || len(got) != oldBytes+1 {
		t.Errorf("%d bytes in %d messages", len(got), messages)
	}
}

func TestList(t *testing.T) {
	u, _ := serveNode(t, Config{})
	const many = 2000
	want := map[string]int64{}
	for i := range many {
		key := fmt.Sprintf("p/%s/%04d", strings.Repeat("x", 40), i)
		u.mustWrite(key, make([]byte, i%7))
		want[key] = int64(i % 7)
	}
	for _, strip := range []uint64{0, 2, 43, 1 << 63} {
		stream, err := u.List(u.ctx(), &pb.ListRequest{Range: &pb.KeyRange{InclusiveMin: []byte("p/"), ExclusiveMax: []byte("p0")}, StripPrefixLength: strip})
		if err != nil {
			t.Fatal(err)
		}
		keys, messages := 0, 0
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			messages++
			bytes := 0
			for _, e := range m.Entry {
				keys++
				bytes += len(e.Key) + entryCost
				if size, ok := want[string(e.Key)]; strip == 0 && (!ok || size != e.Size) || strip == 1<<63 && len(e.Key) > 0 || strip == 43 && len(e.Key) != 4 {
					t.Fatalf("strip %d: %q of %d bytes", strip, e.Key, e.Size)
				}
			}
			if bytes > listBytes+100 || len(m.Entry) == 0 {
				t.Errorf("a message of %d keys and %d bytes", len(m.Entry), bytes)
			}
		}
		if keys != many || strip == 0 && messages < 2 {
			t.Errorf("strip %d: %d keys in %d messages", strip, keys, messages)
		}
	}
}

// TestDelete: what there is of a range decides what is deleted.
func TestDelete(t *testing.T) {
	u, store := serveNode(t, Config{})
	left := func() (keys []string) {
		for e, err := range store.List(t.Context(), client.Query{}) {
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, string(e.Key))
		}
		return keys
	}
	for _, c := range []struct {
		in   *pb.DeleteRequest
		want string
	}{
		{&pb.DeleteRequest{Key: []byte("a")}, "b c d"}, {&pb.DeleteRequest{Key: []byte("a"), GenerationIfEqual: []byte{tagAbsent}}, "a b c d"},
		{&pb.DeleteRequest{Range: &pb.KeyRange{InclusiveMin: []byte("b"), ExclusiveMax: []byte("d")}}, "a d"}, {&pb.DeleteRequest{Range: &pb.KeyRange{InclusiveMin: []byte("c")}}, "a b"},
		{&pb.DeleteRequest{Range: &pb.KeyRange{InclusiveMin: []byte("c"), ExclusiveMax: []byte("b")}}, "a b c d"}, {&pb.DeleteRequest{Range: &pb.KeyRange{}}, ""},
		{&pb.DeleteRequest{Key: []byte("a"), Range: &pb.KeyRange{InclusiveMin: []byte("d")}}, "a b c"},
	} {
		for _, key := range []string{"a", "b", "c", "d"} {
			u.mustWrite(key, []byte(key))
		}
		m, err := u.Delete(u.ctx(), c.in)
		if err != nil || !m.GenerationAndTimestamp.Timestamp.IsValid() {
			t.Errorf("%v: %v, %v", c.in, m, err)
		}
		if got := strings.Join(left(), " "); got != c.want {
			t.Errorf("%v leaves %q, want %q", c.in, got, c.want)
		}
	}
}

// TestDeleted: after a deletion, the generation of the key is that of a missing one.
func TestDeleted(t *testing.T) {
	u, _ := serveNode(t, Config{})
	g := u.mustWrite("k", []byte("v"))
	for _, c := range []struct{ condition, want []byte }{{encodeGeneration(never), nil}, {g, []byte{tagAbsent}}, {g, nil}, {nil, []byte{tagAbsent}}, {[]byte{tagAbsent}, []byte{tagAbsent}}} {
		m, err := u.Delete(u.ctx(), &pb.DeleteRequest{Key: []byte("k"), GenerationIfEqual: c.condition})
		if err != nil || !bytes.Equal(m.GenerationAndTimestamp.Generation, c.want) {
			t.Errorf("condition %x: %v, %v; want %x", c.condition, m, err, c.want)
		}
	}
}

// TestRace: of many writers with one condition one wins.
func TestRace(t *testing.T) {
	c := gatewaytest.NewCluster(t, 2, 64<<20)
	users := []*user{dial(t, gatewaytest.Serve(t, Serve(Config{}), c.Inside(0))), dial(t, gatewaytest.Serve(t, Serve(Config{}), c.Inside(1)))}
	condition := []byte{tagAbsent}
	for round := range 5 {
		answers := make([][]byte, 32)
		var wg sync.WaitGroup
		for i := range answers {
			wg.Go(func() {
				m, err := users[i%2].write(users[i%2].ctx(), "k", condition, fmt.Append(nil, i))
				if err != nil {
					t.Error(err)
				}
				answers[i] = m.GetGenerationAndTimestamp().GetGeneration()
			})
		}
		wg.Wait()
		winner := -1
		for i, g := range answers {
			if len(g) == 0 {
				continue
			}
			if winner >= 0 {
				t.Errorf("round %d: %d and %d win", round, winner, i)
			}
			winner, condition = i, g
		}
		if _, value, _ := users[0].mustRead(&pb.ReadRequest{Key: []byte("k")}); string(value) != fmt.Sprint(winner) {
			t.Errorf("round %d: %q, and %d wins", round, value, winner)
		}
	}
}

// TestEnds: a face that is stopped in the middle of requests ends in time, with nothing lent.
func TestEnds(t *testing.T) {
	c := gatewaytest.NewCluster(t, 1, 128<<20)
	store := gateway.Store(c.Inside(0))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Serve(Config{})(ctx, l, store) }()
	u := dial(t, l.Addr().String(), grpc.WithInitialWindowSize(64<<10))
	u.mustWrite("k", slices.Collect(slices.Chunk(random(4<<20), partBytes))...)
	reading, err := u.Read(u.ctx(), &pb.ReadRequest{Key: []byte("k")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reading.Recv(); err != nil {
		t.Fatal(err)
	}
	writing, err := u.Write(u.ctx())
	if err == nil {
		err = writing.Send(&pb.WriteRequest{Key: []byte("k"), ValuePart: []byte("part")})
	}
	if err != nil {
		t.Fatal(err)
	}
	stop()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatalf("the face did not end within %v", patience)
	}
	if v, err := store.Get(t.Context(), []byte("k")); err != nil || len(v.Bytes) != 4<<20 {
		t.Errorf("%d bytes, %v", len(v.Bytes), err)
	}
}
