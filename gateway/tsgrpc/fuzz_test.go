package tsgrpc

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/dramnode/dramnode"
	pb "github.com/dramnode/dramnode/gateway/tsgrpc/kvstorepb"
)

// A generation that is read is written the same, or is one that no value ever has.
func FuzzGeneration(f *testing.F) {
	for _, b := range []string{"", "\x02", "\x00", "\x0012345678", "\x00\x00\x00\x00\x00\x00\x00\x00\x00", "\x10", "\x0112345678"} {
		f.Add([]byte(b))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		g, given := decodeGeneration(b)
		if given != (len(b) > 0) || given && g != never && !bytes.Equal(encodeGeneration(g), b) {
			t.Fatalf("%x is generation %d, given: %v", b, g, given)
		}
	})
}

// Every range and every time is one, or refused; and no answer is older than was asked for.
func FuzzRead(f *testing.F) {
	f.Add(int64(0), int64(-1), int64(0), int32(0))
	f.Add(int64(-1<<63), int64(-1), int64(1<<63-1), int32(0))
	f.Add(int64(2), int64(1), int64(maxSeconds+1), int32(1e9))
	f.Fuzz(func(t *testing.T, from, to, seconds int64, nanos int32) {
		_, err := readOptions(&pb.ReadRequest{ByteRange: &pb.ByteRange{InclusiveMin: from, ExclusiveMax: to}})
		if good := to == -1 || 0 <= from && from <= to; good != (err == nil) || err != nil && !errors.Is(err, dramnode.ErrInvalid) {
			t.Errorf("from %d to %d: %v", from, to, err)
		}
		bound, err := checkBound(&timestamppb.Timestamp{Seconds: seconds, Nanos: nanos})
		if err != nil {
			return
		}
		if at := stamp(bound, time.Unix(1e9, 0), time.Second); at.CheckValid() != nil || at.AsTime().Before(bound) {
			t.Errorf("%v for the bound %v", at.AsTime(), bound)
		}
	})
}
