package tsgrpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/gateway/conformance"
	"github.com/dramnode/dramnode/gateway/gatewaytest"
	pb "github.com/dramnode/dramnode/gateway/tsgrpc/kvstorepb"
)

// An adapter asks as TensorStore's tsgrpc_kvstore driver does, through several faces in turn.
type adapter struct {
	users []*user
	turn  atomic.Uint32
}

func (a *adapter) user() *user { return a.users[a.turn.Add(1)%uint32(len(a.users))] }

func wire(g conformance.Generation) []byte {
	if g == conformance.NoValue {
		return []byte{tagAbsent}
	}
	return []byte(g)
}

func known(g []byte) conformance.Generation {
	if bytes.Equal(g, []byte{tagAbsent}) {
		return conformance.NoValue
	}
	return conformance.Generation(g)
}

// Read implements conformance.Adapter.
func (a *adapter) Read(ctx context.Context, r conformance.Read) (conformance.Result, error) {
	in := &pb.ReadRequest{Key: []byte(r.Key), GenerationIfEqual: wire(r.IfEqual), GenerationIfNotEqual: wire(r.IfNotEqual)}
	switch {
	case r.Last > 0:
		in.ByteRange = &pb.ByteRange{InclusiveMin: -r.Last, ExclusiveMax: -1}
	case !r.Whole:
		in.ByteRange = &pb.ByteRange{InclusiveMin: r.Start, ExclusiveMax: r.End}
	}
	asked := time.Now()
	if r.Fresh {
		in.StalenessBound = timestamppb.New(asked)
	}
	first, value, _, err := a.user().read(ctx, in)
	if status.Code(err) == codes.OutOfRange {
		return conformance.Result{}, dramnode.ErrOutOfRange
	}
	if err != nil {
		return conformance.Result{}, err
	}
	if first == nil {
		return conformance.Result{}, errors.New("an answer without a message")
	}
	state, ok := map[pb.ReadResponse_State]conformance.State{
		pb.ReadResponse_UNSPECIFIED: conformance.Aborted, pb.ReadResponse_MISSING: conformance.Missing, pb.ReadResponse_VALUE: conformance.Value,
	}[first.State]
	at := first.GenerationAndTimestamp.GetTimestamp()
	if err := at.CheckValid(); err != nil || !ok {
		return conformance.Result{}, fmt.Errorf("state %v, %w", first.State, err)
	}
	if at.AsTime().Before(asked.Truncate(0)) {
		return conformance.Result{}, fmt.Errorf("asked at %v, and current at %v", asked, at.AsTime())
	}
	return conformance.Result{State: state, Generation: known(first.GenerationAndTimestamp.Generation), Bytes: value, Time: at.AsTime()}, nil
}

func outcome(m *pb.GenerationAndTimestamp, err error) (conformance.Generation, error) {
	if err == nil {
		err = m.GetTimestamp().CheckValid()
	}
	return known(m.GetGeneration()), err
}

// Write implements conformance.Adapter, with parts as long as TensorStore's.
func (a *adapter) Write(ctx context.Context, key string, value []byte, condition conformance.Generation) (conformance.Generation, error) {
	var parts [][]byte
	for len(value) > 0 {
		n := min(len(value), partBytes)
		parts, value = append(parts, value[:n]), value[n:]
	}
	m, err := a.user().write(ctx, key, wire(condition), parts...)
	return outcome(m.GetGenerationAndTimestamp(), err)
}

// Delete implements conformance.Adapter.
func (a *adapter) Delete(ctx context.Context, key string, condition conformance.Generation) (conformance.Generation, error) {
	m, err := a.user().Delete(ctx, &pb.DeleteRequest{Key: []byte(key), GenerationIfEqual: wire(condition)})
	return outcome(m.GetGenerationAndTimestamp(), err)
}

// DeleteRange implements conformance.Adapter.
func (a *adapter) DeleteRange(ctx context.Context, min, max string) error {
	_, err := a.user().Delete(ctx, &pb.DeleteRequest{Range: &pb.KeyRange{InclusiveMin: []byte(min), ExclusiveMax: []byte(max)}})
	return err
}

// List implements conformance.Adapter.
func (a *adapter) List(ctx context.Context, min, max string, yield func(conformance.Entry) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := a.user().List(ctx, &pb.ListRequest{Range: &pb.KeyRange{InclusiveMin: []byte(min), ExclusiveMax: []byte(max)}})
	for err == nil {
		var m *pb.ListResponse
		if m, err = stream.Recv(); err == nil {
			for _, e := range m.Entry {
				if !yield(conformance.Entry{Key: string(e.Key), Size: e.Size}) {
					return nil
				}
			}
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// Foreign implements conformance.Adapter.
func (a *adapter) Foreign() conformance.Generation {
	return conformance.Generation(encodeGeneration(1415926535897932))
}

// Lacks implements conformance.Adapter.
func (a *adapter) Lacks(conformance.Feature) string { return "" }

func TestConformance(t *testing.T) { conform(t, gatewaytest.NewCluster(t, 3, 64<<20)) }

func TestReplicatedConformance(t *testing.T) {
	conform(t, gatewaytest.NewCluster(t, 3, 64<<20, gatewaytest.Replicated))
}

func conform(t *testing.T, c *gatewaytest.Cluster) {
	var a adapter
	for i := range 2 { // the third node owns keys, and has no face
		a.users = append(a.users, dial(t, gatewaytest.Serve(t, Serve(Config{}), c.Inside(i))))
	}
	conformance.Run(t, &a)
}
