package tsgrpc

import (
	"errors"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
	pb "github.com/dramnode/dramnode/gateway/tsgrpc/kvstorepb"
)

const (
	partBytes = 1 << 20       // of a value in one message
	copyBytes = 16 << 10      // a part up to here is copied: that costs less than lending it
	oldBytes  = 4<<20 - 1<<10 // of a value for a client that reads one message, which may have 4 MiB
	listBytes = 16 << 10      // of keys in one message
	entryCost = 16            // that an entry has besides
)

func (c *call) read() error {
	var in pb.ReadRequest
	if err := c.request(&in); err != nil {
		return err
	}
	opts, err := readOptions(&in)
	if err != nil {
		return err
	}
	bound, err := checkBound(in.StalenessBound)
	if err != nil {
		return err
	}
	at := stamp(bound, c.start, c.cfg.ClockSkew)
	value, meta, err := c.store.GetBuffer(c.ctx, in.Key, opts...)
	mismatch := new(dramnode.GenerationError)
	switch {
	case errors.Is(err, dramnode.ErrNotFound), errors.As(err, &mismatch) && mismatch.Current == dramnode.Absent:
		return c.send(&pb.ReadResponse{State: pb.ReadResponse_MISSING, GenerationAndTimestamp: versioned(encodeGeneration(dramnode.Absent), at)})
	case errors.As(err, &mismatch):
		return c.send(&pb.ReadResponse{State: pb.ReadResponse_UNSPECIFIED, GenerationAndTimestamp: versioned(encodeGeneration(mismatch.Current), at)})
	case err != nil:
		return err
	}
	return c.sendValue(value, meta.Generation, at)
}

// sendValue sends a value in parts and releases it. The first message has the rest of the answer and, unless the
// value is empty, the first part: a client takes the rest from every message before the first bytes.
func (c *call) sendValue(value *client.Buffer, g dramnode.Generation, at *timestamppb.Timestamp) error {
	left, step := value.Bytes(), partBytes
	if old := c.userAgent(); readsOneMessage(old) {
		if step = oldBytes; len(left) > step {
			value.Release()
			return status.Errorf(codes.FailedPrecondition, "this client (%s) reads %d bytes at most, this is %d: TensorStore 0.1.72 and newer read all", old, step, len(left))
		}
	}
	lease := c.conn.lease(value, c.cfg.stall)
	defer lease.done()
	m := valuePart{first: &pb.ReadResponse{State: pb.ReadResponse_VALUE, GenerationAndTimestamp: versioned(encodeGeneration(g), at)}}
	for {
		m.bytes, m.from = left[:min(step, len(left))], lease
		if len(m.bytes) <= copyBytes {
			m.from = nil
		}
		left = left[len(m.bytes):]
		if err := c.send(&m); err != nil || len(left) == 0 {
			return err
		}
		m.first = nil
	}
}

func (c *call) userAgent() string {
	m, _ := metadata.FromIncomingContext(c.ctx)
	return strings.Join(m.Get("user-agent"), " ")
}

func (c *call) list() error {
	var in pb.ListRequest
	if err := c.request(&in); err != nil {
		return err
	}
	if _, err := checkBound(in.StalenessBound); err != nil { // what is listed is current in any case
		return err
	}
	var out pb.ListResponse
	collected := 0
	for e, err := range c.store.List(c.ctx, client.Query{Start: in.Range.GetInclusiveMin(), End: in.Range.GetExclusiveMax()}) {
		if err != nil {
			return err
		}
		key := e.Key[min(uint64(len(e.Key)), in.StripPrefixLength):]
		out.Entry = append(out.Entry, &pb.ListResponse_Entry{Key: key, Size: e.Size})
		if collected += len(key) + entryCost; collected >= listBytes {
			if err := c.send(&out); err != nil {
				return err
			}
			out.Entry, collected = nil, 0
		}
	}
	if len(out.Entry) == 0 {
		return nil
	}
	return c.send(&out)
}

// outcome is the answer to a write or deletion: a condition that does not hold is no error of it.
func (c *call) outcome(g dramnode.Generation, err error) (*pb.GenerationAndTimestamp, error) {
	encoded := encodeGeneration(g)
	if errors.Is(err, dramnode.ErrGenerationMismatch) {
		encoded, err = nil, nil
	}
	if err != nil {
		return nil, err
	}
	return versioned(encoded, stamp(time.Time{}, c.start, c.cfg.ClockSkew)), nil
}

func (c *call) delete() error {
	var in pb.DeleteRequest
	if err := c.request(&in); err != nil {
		return err
	}
	if in.Range != nil { // also an empty one, which means everything; a key does not count then
		_, err := c.store.DeleteRange(c.ctx, client.Query{Start: in.Range.InclusiveMin, End: in.Range.ExclusiveMax})
		if err != nil {
			return err
		}
		return c.send(&pb.DeleteResponse{GenerationAndTimestamp: versioned(nil, stamp(time.Time{}, c.start, c.cfg.ClockSkew))})
	}
	_, err := c.store.Remove(c.ctx, in.Key, conditionOf(in.GenerationIfEqual)...)
	done, err := c.outcome(dramnode.Absent, err) // which is what the key has now
	if err != nil {
		return err
	}
	return c.send(&pb.DeleteResponse{GenerationAndTimestamp: done})
}
