package tsgrpc

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/gateway/object"
	pb "github.com/dramnode/dramnode/gateway/tsgrpc/kvstorepb"
)

// TestWire compares what is sent with bytes that were put together by hand from the table of fields: a field is
// its number times 8 plus its kind (0: a number, 2: bytes after their length).
func TestWire(t *testing.T) {
	at := &timestamppb.Timestamp{Seconds: 5, Nanos: 6} // 08 05 10 06
	stamp := &pb.GenerationAndTimestamp{Generation: []byte{2}, Timestamp: at}
	for _, c := range []struct {
		m    proto.Message
		want string
	}{
		{&pb.ReadRequest{Key: []byte("k"), GenerationIfNotEqual: []byte("n"), GenerationIfEqual: []byte("e"), StalenessBound: at, ByteRange: &pb.ByteRange{InclusiveMin: 1, ExclusiveMax: 3}},
			"0a016b 12016e 1a0165 220408051006 2a0408011003"},
		{&pb.ByteRange{InclusiveMin: -1, ExclusiveMax: -1}, "08ffffffffffffffffff01 10ffffffffffffffffff01"},
		{&pb.ReadResponse{Status: &pb.StatusMessage{Code: 8, Message: []byte("m")}, GenerationAndTimestamp: stamp, State: pb.ReadResponse_VALUE, ValuePart: []byte("v")},
			"0a05080812016d 12090a0102120408051006 1802 220176"},
		{&pb.ReadResponse{State: pb.ReadResponse_MISSING}, "1801"},
		{&pb.ReadResponse{State: pb.ReadResponse_UNSPECIFIED}, ""},
		{&pb.WriteRequest{Key: []byte("k"), GenerationIfEqual: []byte("e"), ValuePart: []byte("v")}, "0a016b 120165 1a0176"},
		{&pb.WriteResponse{Status: &pb.StatusMessage{Code: 1}, GenerationAndTimestamp: stamp}, "0a020801 12090a0102120408051006"},
		{&pb.DeleteRequest{Key: []byte("k"), Range: &pb.KeyRange{InclusiveMin: []byte("a"), ExclusiveMax: []byte("b")}, GenerationIfEqual: []byte("e")}, "0a016b 12060a0161120162 1a0165"},
		{&pb.DeleteRequest{Range: &pb.KeyRange{}}, "1200"},
		{&pb.DeleteResponse{Status: &pb.StatusMessage{Code: 1}, GenerationAndTimestamp: stamp}, "0a020801 12090a0102120408051006"},
		{&pb.ListRequest{Range: &pb.KeyRange{InclusiveMin: []byte("a")}, StripPrefixLength: 7, StalenessBound: at}, "0a030a0161 1007 1a0408051006"},
		{&pb.ListResponse{Status: &pb.StatusMessage{Code: 1}, Entry: []*pb.ListResponse_Entry{{Key: []byte("k"), Size: 9}, {Key: []byte("l"), Size: -1}}},
			"0a020801 12050a016b1009 120e0a016c10ffffffffffffffffff01"},
	} {
		want, err := hex.DecodeString(string(bytes.ReplaceAll([]byte(c.want), []byte(" "), nil)))
		if err != nil {
			t.Fatal(err)
		}
		got, err := proto.MarshalOptions{Deterministic: true}.Marshal(c.m)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%T: %x, %v; want %x", c.m, got, err, want)
		}
	}
	for got, want := range map[string]string{
		pb.KvStoreService_Read_FullMethodName:   "/tensorstore_grpc.kvstore.KvStoreService/Read",
		pb.KvStoreService_Write_FullMethodName:  "/tensorstore_grpc.kvstore.KvStoreService/Write",
		pb.KvStoreService_Delete_FullMethodName: "/tensorstore_grpc.kvstore.KvStoreService/Delete",
		pb.KvStoreService_List_FullMethodName:   "/tensorstore_grpc.kvstore.KvStoreService/List",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestGenerations(t *testing.T) {
	for _, c := range []struct {
		bytes string
		want  dramnode.Generation
		given bool
	}{
		{"", 0, false}, {"\x02", dramnode.Absent, true}, {"\x00\x01\x00\x00\x00\x00\x00\x00\x00", 1, true},
		{"\x00\x08\x07\x06\x05\x04\x03\x02\x01", 0x0102030405060708, true},
		{"\x00\x00\x00\x00\x00\x00\x00\x00\x00", never, true}, // a value's, and no value has it
		{"\x00abc", never, true}, {"\x00", never, true}, {"\x10", never, true}, {"\x01\x01\x00\x00\x00\x00\x00\x00\x00", never, true},
		{"\x02\x00", never, true}, {"\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00", never, true},
	} {
		if g, given := decodeGeneration([]byte(c.bytes)); g != c.want || given != c.given {
			t.Errorf("%q: %d, %v; want %d, %v", c.bytes, g, given, c.want, c.given)
		}
	}
	for _, g := range []dramnode.Generation{dramnode.Absent, 1, 1 << 40, never} {
		if back, given := decodeGeneration(encodeGeneration(g)); back != g || !given {
			t.Errorf("%d comes back as %d", g, back)
		}
	}
}

func TestReadOptions(t *testing.T) {
	one, absent := encodeGeneration(1), encodeGeneration(dramnode.Absent)
	for _, c := range []struct {
		in   *pb.ReadRequest
		want []client.Option
	}{
		{&pb.ReadRequest{}, nil},
		{&pb.ReadRequest{GenerationIfEqual: one}, []client.Option{client.IfGeneration(1)}},
		{&pb.ReadRequest{GenerationIfEqual: absent, GenerationIfNotEqual: one}, []client.Option{client.IfGeneration(dramnode.Absent), client.IfNotGeneration(1)}},
		{&pb.ReadRequest{ByteRange: &pb.ByteRange{}}, []client.Option{client.Range(0, 0)}},
		{&pb.ReadRequest{ByteRange: &pb.ByteRange{ExclusiveMax: -1}}, []client.Option{client.Range(0, -1)}},
		{&pb.ReadRequest{ByteRange: &pb.ByteRange{InclusiveMin: 2, ExclusiveMax: 5}}, []client.Option{client.Range(2, 5)}},
		{&pb.ReadRequest{ByteRange: &pb.ByteRange{InclusiveMin: -3, ExclusiveMax: -1}}, []client.Option{client.Suffix(3)}},
		{&pb.ReadRequest{ByteRange: &pb.ByteRange{InclusiveMin: math.MinInt64, ExclusiveMax: -1}}, []client.Option{client.Suffix(math.MaxInt64)}},
	} {
		got, err := readOptions(c.in)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%v: %v, %v; want %v", c.in, got, err, c.want)
		}
	}
	for _, r := range []*pb.ByteRange{{InclusiveMin: 5, ExclusiveMax: 4}, {InclusiveMin: -3, ExclusiveMax: 2}, {ExclusiveMax: -2}, {InclusiveMin: -1}} {
		if _, err := readOptions(&pb.ReadRequest{ByteRange: r}); !errors.Is(err, dramnode.ErrInvalid) {
			t.Errorf("%v: %v", r, err)
		}
	}
}

func TestStamps(t *testing.T) {
	start := time.Unix(1000, 0)
	for _, c := range []struct {
		bound time.Time
		skew  time.Duration
		want  time.Time
	}{
		{time.Time{}, 0, start}, {time.Time{}, time.Second, start.Add(-time.Second)},
		{start.Add(-time.Minute), 0, start}, {start.Add(-time.Minute), time.Second, start.Add(-time.Second)},
		{start.Add(-time.Millisecond), time.Second, start.Add(-time.Millisecond)}, {start.Add(time.Minute), 0, start.Add(time.Minute)},
	} {
		if got := stamp(c.bound, start, c.skew).AsTime(); !got.Equal(c.want) {
			t.Errorf("bound %v, skew %v: %v, want %v", c.bound, c.skew, got, c.want)
		}
	}
	for _, c := range []struct {
		in   *timestamppb.Timestamp
		want time.Time
		bad  bool
	}{
		{nil, time.Time{}, false}, {&timestamppb.Timestamp{Seconds: math.MaxInt64}, time.Time{}, false}, {&timestamppb.Timestamp{Seconds: math.MinInt64}, time.Time{}, false},
		{&timestamppb.Timestamp{Seconds: 7, Nanos: 8}, time.Unix(7, 8), false}, {&timestamppb.Timestamp{}, time.Unix(0, 0), false},
		{&timestamppb.Timestamp{Seconds: maxSeconds, Nanos: 999999999}, time.Unix(maxSeconds, 999999999), false},
		{&timestamppb.Timestamp{Seconds: maxSeconds + 1}, time.Time{}, true}, {&timestamppb.Timestamp{Seconds: minSeconds - 1}, time.Time{}, true},
		{&timestamppb.Timestamp{Nanos: 1e9}, time.Time{}, true}, {&timestamppb.Timestamp{Nanos: -1}, time.Time{}, true},
	} {
		if got, err := checkBound(c.in); !got.Equal(c.want) || errors.Is(err, dramnode.ErrInvalid) != c.bad {
			t.Errorf("%v: %v, %v", c.in, got, err)
		}
	}
}

func TestReadsOneMessage(t *testing.T) {
	for agent, want := range map[string]bool{
		"tensorstore/0.1.71 grpc-c++/1.54.0": true, "tensorstore/0.1.54": true, "tensorstore/0.0.99": true, "tensorstore/0.1.72 grpc-c++/1.66.0": false,
		"tensorstore/0.1.85": false, "tensorstore/0.1.100": false, "tensorstore/0.2.0": false, "tensorstore/1.0": false, "tensorstore/HEAD": false, "tensorstore/": false,
		"grpc-go/1.85.0": false, "": false,
	} {
		if got := readsOneMessage(agent); got != want {
			t.Errorf("%q: %v", agent, got)
		}
	}
}

func TestStatusOf(t *testing.T) {
	live, over := t.Context(), timedOut(t)
	for _, c := range []struct {
		ctx  context.Context
		err  error
		want codes.Code
	}{
		{live, nil, codes.OK}, {live, fmt.Errorf("x: %w", dramnode.ErrInvalid), codes.InvalidArgument}, {live, dramnode.ErrTooLarge, codes.InvalidArgument},
		{live, dramnode.ErrOutOfRange, codes.OutOfRange}, {live, dramnode.ErrUnavailable, codes.Unavailable}, {live, dramnode.ErrNoQuorum, codes.Unavailable},
		{live, dramnode.ErrNoMemory, codes.ResourceExhausted}, {live, dramnode.ErrBusy, codes.ResourceExhausted}, {live, dramnode.ErrCorrupt, codes.DataLoss},
		{live, dramnode.ErrPartitionLost, codes.DataLoss}, {live, fmt.Errorf("%w: %w", dramnode.ErrUnknownOutcome, dramnode.ErrUnavailable), codes.Unknown},
		{live, object.ErrChunked, codes.FailedPrecondition}, {live, errors.New("else"), codes.Internal}, {live, io.EOF, codes.InvalidArgument},
		{live, status.Error(codes.Aborted, "kept"), codes.Aborted},
		{over, dramnode.ErrUnavailable, codes.DeadlineExceeded}, {over, errors.New("else"), codes.DeadlineExceeded}, {over, dramnode.ErrUnknownOutcome, codes.Unknown},
	} {
		if got := status.Code(statusOf(c.ctx, c.err)); got != c.want {
			t.Errorf("%v: %v, want %v", c.err, got, c.want)
		}
	}
}

func timedOut(t *testing.T) context.Context {
	ctx, cancel := context.WithDeadline(t.Context(), time.Unix(0, 0))
	t.Cleanup(cancel)
	return ctx
}
