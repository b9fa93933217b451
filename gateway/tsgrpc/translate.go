package tsgrpc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/gateway/object"
	pb "github.com/dramnode/dramnode/gateway/tsgrpc/kvstorepb"
)

// A generation of the protocol is bytes whose first one is a tag: a value's has tagValue and, from this face, the
// store's number in 8 bytes, little-endian; that of a missing key is tagAbsent alone. None at all stands for no
// condition, and in an answer for one that did not hold.
const (
	tagValue  = 0x00
	tagAbsent = 0x02
)

// never is the generation of no value: epochs, its upper half, are seconds since 1970 or few.
const never dramnode.Generation = math.MaxUint64

func encodeGeneration(g dramnode.Generation) []byte {
	if g == dramnode.Absent {
		return []byte{tagAbsent}
	}
	return binary.LittleEndian.AppendUint64([]byte{tagValue}, uint64(g))
}

// decodeGeneration reads a condition. What no face has made is never met.
func decodeGeneration(b []byte) (g dramnode.Generation, given bool) {
	switch {
	case len(b) == 0:
		return 0, false
	case len(b) == 1 && b[0] == tagAbsent:
		return dramnode.Absent, true
	case len(b) != 9 || b[0] != tagValue:
		return never, true
	}
	if g = dramnode.Generation(binary.LittleEndian.Uint64(b[1:])); g == dramnode.Absent {
		return never, true
	}
	return g, true
}

// conditionOf is the condition of a write or a deletion.
func conditionOf(ifEqual []byte) []client.Option {
	if g, given := decodeGeneration(ifEqual); given {
		return []client.Option{client.IfGeneration(g)}
	}
	return nil
}

// readOptions are those of a read, or an ErrInvalid.
func readOptions(r *pb.ReadRequest) ([]client.Option, error) {
	opts := conditionOf(r.GenerationIfEqual)
	if g, given := decodeGeneration(r.GenerationIfNotEqual); given {
		opts = append(opts, client.IfNotGeneration(g))
	}
	if r.ByteRange == nil {
		return opts, nil
	}
	from, to := r.ByteRange.InclusiveMin, r.ByteRange.ExclusiveMax
	switch {
	case to == -1 && from >= 0:
		return append(opts, client.Range(from, -1)), nil
	case to == -1:
		return append(opts, client.Suffix(-max(from, -math.MaxInt64))), nil
	case from < 0 || to < from:
		return nil, fmt.Errorf("%w: byte range from %d to %d", dramnode.ErrInvalid, from, to)
	}
	return append(opts, client.Range(from, to)), nil
}

// The bounds of a Timestamp in seconds, and the values that stand for ever.
const (
	minSeconds = -62135596800
	maxSeconds = 253402300799
)

// checkBound returns the instant that a staleness bound means, or the zero Time for none.
func checkBound(bound *timestamppb.Timestamp) (time.Time, error) {
	switch {
	case bound == nil, bound.Nanos == 0 && (bound.Seconds == math.MinInt64 || bound.Seconds == math.MaxInt64):
		return time.Time{}, nil
	case bound.Seconds < minSeconds || bound.Seconds > maxSeconds || bound.Nanos < 0 || bound.Nanos >= 1e9:
		return time.Time{}, fmt.Errorf("%w: no time: %d s and %d ns", dramnode.ErrInvalid, bound.Seconds, bound.Nanos)
	}
	return bound.AsTime(), nil
}

// stamp is the instant at which an answer that was made after start is known to have been the current one, for a
// client that compares it with its own clock. It is not before the bound: the client's request was sent after
// that. Otherwise it must not be ahead of the client's clock, or what it keeps would look fresher than it is.
func stamp(bound, start time.Time, skew time.Duration) *timestamppb.Timestamp {
	if at := start.Add(-skew); at.After(bound) {
		return timestamppb.New(at)
	}
	return timestamppb.New(bound)
}

func versioned(g []byte, at *timestamppb.Timestamp) *pb.GenerationAndTimestamp {
	return &pb.GenerationAndTimestamp{Generation: g, Timestamp: at}
}

// oneMessage is the first release of TensorStore that reads values in parts.
var oneMessage = [3]int{0, 1, 72}

// readsOneMessage tells by its user agent that a client waits for ever after the first message of a value.
func readsOneMessage(userAgent string) bool {
	_, rest, ok := strings.Cut(userAgent, "tensorstore/")
	if !ok {
		return false
	}
	word, _, _ := strings.Cut(rest, " ")
	for i, text := range strings.SplitN(word, ".", 4) {
		if i == len(oneMessage) {
			break
		}
		n, err := strconv.Atoi(text)
		if err != nil {
			return false // a build of its own, which is newer
		}
		if n != oneMessage[i] {
			return n < oneMessage[i]
		}
	}
	return false
}

// statusOf is what a client is told of an error. That the request was cancelled, or its time over, says more
// than what followed from that; but not where a write may have happened.
func statusOf(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err // of the transport
	}
	code := codes.Internal
	for _, c := range statusCodes {
		if errors.Is(err, c.err) {
			code = c.code
			break
		}
	}
	if code != codes.Unknown && ctx.Err() != nil {
		code = status.FromContextError(ctx.Err()).Code()
	}
	return status.Error(code, err.Error())
}

// statusCodes are tried in order.
var statusCodes = []struct {
	err  error
	code codes.Code
}{
	{dramnode.ErrUnknownOutcome, codes.Unknown},
	{object.ErrChunked, codes.FailedPrecondition},
	{dramnode.ErrInvalid, codes.InvalidArgument},
	{dramnode.ErrTooLarge, codes.InvalidArgument},
	{dramnode.ErrOutOfRange, codes.OutOfRange},
	{dramnode.ErrNoMemory, codes.ResourceExhausted},
	{dramnode.ErrBusy, codes.ResourceExhausted},
	{dramnode.ErrPartitionLost, codes.DataLoss},
	{dramnode.ErrCorrupt, codes.DataLoss},
	{dramnode.ErrNotAuthorised, codes.PermissionDenied},
	{dramnode.ErrUnavailable, codes.Unavailable},
	{dramnode.ErrNoQuorum, codes.Unavailable},
	{dramnode.ErrDegraded, codes.Unavailable},
	{dramnode.ErrClosed, codes.Unavailable},
	{io.EOF, codes.InvalidArgument}, // a request without a message
	{context.DeadlineExceeded, codes.DeadlineExceeded},
	{context.Canceled, codes.Canceled},
}
