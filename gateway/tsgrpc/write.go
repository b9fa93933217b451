package tsgrpc

import (
	"errors"
	"fmt"
	"io"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
	pb "github.com/dramnode/dramnode/gateway/tsgrpc/kvstorepb"
)

// write stores a value once the client has sent all of it, which it says by closing its side. A stream that ends
// in another way has written nothing.
func (c *call) write() error {
	in := incoming{call: c, loan: c.bodies.loan()}
	defer in.end()
	for {
		more, err := in.next()
		if err != nil {
			return err
		}
		if !more {
			break
		}
	}
	value, err := in.value()
	if err != nil {
		return err
	}
	done, err := c.outcome(c.store.PutBuffer(c.ctx, in.key, value, conditionOf(in.condition)...))
	if err != nil {
		return err
	}
	return c.send(&pb.WriteResponse{GenerationAndTimestamp: done})
}

// An incoming is a value on its way in. Its parts wait where the transport has received them until its length is
// known, and go to the store's memory then.
type incoming struct {
	*call
	loan           *loan
	begun          bool
	key, condition []byte
	parts          []span
	bytes          int64
}

// next receives a part; false: there is none, and the value is complete.
func (in *incoming) next() (more bool, err error) {
	if err := in.loan.take(in.ctx, maxMessageBytes); err != nil {
		return false, err
	}
	var m writePart
	if err := in.receive(&m); errors.Is(err, io.EOF) {
		if err := in.ctx.Err(); err != nil {
			return false, err
		}
		return false, in.check()
	} else if err != nil {
		return false, err
	}
	if m.err != nil {
		return false, m.err
	}
	in.loan.give(maxMessageBytes - in.add(m))
	return true, in.check()
}

// add keeps the part of a message and returns what that costs.
func (in *incoming) add(m writePart) (bytes int64) {
	if !in.begun { // only the first message has them
		in.begun, in.key, in.condition = true, m.key, m.condition
	}
	in.bytes += int64(m.value.bytes)
	if m.value.bytes < fragmentBytes || 2*m.value.bytes < m.size {
		in.keepCopy(m.value)
	} else {
		in.parts = append(in.parts, m.value)
	}
	return min(int64(m.size), maxMessageBytes)
}

// keepCopy keeps a part that is short, or that would keep much else from being freed.
func (in *incoming) keepCopy(part span) {
	if n := len(in.parts); n == 0 || in.parts[n-1].copied == nil {
		in.parts = append(in.parts, span{copied: []byte{}})
	}
	last := &in.parts[len(in.parts)-1]
	before := len(last.copied)
	last.copied = append(last.copied, make([]byte, part.bytes)...)
	part.copyTo(last.copied[before:])
	part.release()
}

// check reports early what cannot become a value.
func (in *incoming) check() error {
	if !in.begun {
		return fmt.Errorf("%w: a write without a message", dramnode.ErrInvalid)
	}
	if limit := int64(in.store.Table().MaxValue); in.bytes > limit {
		return fmt.Errorf("%w: %d bytes or more, the cluster's limit is %d", dramnode.ErrTooLarge, in.bytes, limit)
	}
	return dramnode.CheckKey(in.key)
}

// value returns the whole value in memory for the store.
func (in *incoming) value() (*client.Buffer, error) {
	b, err := in.store.NewBuffer(in.ctx, int(in.bytes))
	if err != nil {
		return nil, err
	}
	to := b.Bytes()
	for _, p := range in.parts {
		to = p.copyTo(to)
	}
	in.release()
	return b, nil
}

func (in *incoming) release() {
	for _, p := range in.parts {
		p.release()
	}
	in.parts = nil
}

func (in *incoming) end() {
	in.release()
	in.loan.end()
}
