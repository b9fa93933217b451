package resp

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
)

// A current is what a key has when an update decides. It is a zero one when exists is false.
type current struct {
	client.Meta
	exists bool
	bytes  []byte // nil when the update did not want them
}

// A change is what an update does to a key.
type change struct {
	kind  changeKind
	bytes []byte        // of puts
	life  time.Duration // of puts and touches; 0: for ever
}

type changeKind uint8

const (
	keeps changeKind = iota
	puts
	removes
	touches
)

const (
	updateTimeout   = 5 * time.Second // for all attempts together
	attemptsAtOnce  = 3               // without a pause between them
	updatePauseMin  = 50 * time.Microsecond
	updatePauseMax  = 10 * time.Millisecond
	pauseDoublesMax = 8
)

// update reads key, with its bytes if they are wanted, asks decide what to do, and does it unless somebody has
// written key meanwhile; then it begins again. It returns the batch in which operation 0 is the read, found or
// dramnode.ErrNotFound, or nil when it has answered with an error. What was in the batch before is settled.
func (c *conn) update(key []byte, wantBytes bool, decide func(old *current) change) *client.Batch {
	c.settle()
	until := time.Now().Add(updateTimeout)
	for try := 0; ; try++ {
		c.one.Reset()
		if wantBytes {
			c.one.Get(key)
		} else {
			c.one.Stat(key)
		}
		c.one.Do(c.server.work)
		err := c.one.Err(0)
		if err == nil || errors.Is(err, dramnode.ErrNotFound) {
			err = c.try(key, decide)
		}
		switch {
		case err == nil:
			return c.one
		case !errors.Is(err, dramnode.ErrGenerationMismatch):
		case time.Now().After(until):
			err = fmt.Errorf("%w: somebody else wrote the key between %d reads and writes", dramnode.ErrBusy, try+1)
		case pause(c.server.work, try) == nil:
			continue
		}
		c.out.fault(faultOf(err))
		return nil
	}
}

// try does what decide says, if the key is still as it was read.
func (c *conn) try(key []byte, decide func(*current) change) error {
	old := current{Meta: c.one.Meta(0), bytes: c.one.Bytes(0), exists: c.one.Err(0) == nil}
	do := decide(&old)
	if do.kind == keeps || do.kind != puts && !old.exists {
		return nil
	}
	still, store := client.IfGeneration(old.Generation), c.server.store
	var err error
	switch {
	case do.kind == removes:
		_, err = store.Remove(c.server.work, key, still)
	case do.kind == touches:
		_, err = store.Touch(c.server.work, key, do.life, still)
	case do.life > 0:
		_, err = store.Put(c.server.work, key, do.bytes, still, client.TTL(do.life))
	default:
		_, err = store.Put(c.server.work, key, do.bytes, still)
	}
	if errors.Is(err, dramnode.ErrNotFound) { // Touch: it has gone meanwhile
		return &dramnode.GenerationError{Current: dramnode.Absent}
	}
	return err
}

// pause waits before the attempt after try, at random so that two that met do not meet again.
func pause(ctx context.Context, try int) error {
	if try < attemptsAtOnce {
		return ctx.Err()
	}
	timer := time.NewTimer(rand.N(min(updatePauseMin<<min(try-attemptsAtOnce, pauseDoublesMax), updatePauseMax)))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
