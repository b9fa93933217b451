package client

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/ring"
	"github.com/dramnode/dramnode/wire"
)

// A step is what follows an attempt.
type step uint8

const (
	stepDone    step = iota // the reply is good
	stepFail                // the error is final
	stepRetry               // at another replica, or after a pause
	stepRefresh             // after fetching the newer table that the reply told of
)

// A past is what decides beside the end of an attempt.
type past struct {
	write bool // replicas remember writes: one that may have been executed is sent again with the same id
	doubt bool // an attempt before may have been executed
}

// decide says what follows an attempt that ended with a transport error or with a status, and whether it may
// have been executed. It keeps the promise of package dramnode: a write is executed once.
func decide(p past, err error, status wire.Status, newerTable bool) (s step, doubt bool) {
	if err != nil {
		return decideError(p, err)
	}
	switch status {
	case wire.StatusOK:
		return stepDone, false
	case wire.StatusNotOwner, wire.StatusUnavailable, wire.StatusNoQuorum:
		if newerTable {
			return stepRefresh, false
		}
		return stepRetry, false
	case wire.StatusBusy, wire.StatusClosed: // a node that closes did not apply it; its partitions move
		return stepRetry, false
	case wire.StatusUnknownOutcome:
		if s, doubt = p.unknown(); s == stepRetry && newerTable {
			s = stepRefresh
		}
		return s, doubt
	case wire.StatusNoMemory, wire.StatusDegraded:
		if p.doubt { // nodes look for room before they look for a record
			return stepRetry, false
		}
	}
	return stepFail, false
}

func decideError(p past, err error) (s step, doubt bool) {
	var place *placeError
	switch {
	case errors.As(err, &place):
		if p.write || !errors.Is(err, dramnode.ErrBusy) {
			return stepFail, p.write
		}
		return stepRetry, false
	case errors.Is(err, errReply):
		return stepFail, p.write
	case errors.Is(err, dramnode.ErrNotAuthorised):
		return stepFail, false
	case errors.Is(err, dramnode.ErrUnknownOutcome):
		return p.unknown()
	case errors.Is(err, dramnode.ErrUnavailable), errors.Is(err, dramnode.ErrBusy):
		return stepRetry, false
	}
	return stepFail, false
}

// unknown is what follows an attempt of which nobody knows whether it was executed.
func (p past) unknown() (s step, doubt bool) {
	return stepRetry, p.write
}

// recordsKept reports whether what replicas of a partition remembered by the table before is remembered by the table
// now. Otherwise a write that was executed would be executed again, over what others have written since.
func recordsKept(before, now *control.Table, p ring.Partition) bool {
	return before.ClusterID == now.ClusterID && before.Rows[p].Losses == now.Rows[p].Losses
}

var errRecordsLost = fmt.Errorf("client: %w: an attempt may have been applied before the partition was lost", dramnode.ErrUnknownOutcome)

const (
	// recordedLife is for how long a write may be sent again: replicas keep records for
	// longer than any copy of it lives.
	recordedLife = 30 * time.Second

	attemptLeast = time.Second
	attemptRate  = 16 << 20 // bytes per second
	attemptLoops = 5        // doublings
)

// attemptLimit is how long one attempt of a write of this length may take where it can be sent again: the primary may be cut
// off from the others. It doubles with each attempt that got no answer.
func attemptLimit(bytes, unanswered int) time.Duration {
	return (attemptLeast + time.Duration(bytes)*time.Second/attemptRate) << min(unanswered, attemptLoops)
}

// lastWord is the error for the caller when err, of the latest attempt, is the last. After an attempt that may have been
// executed only what replicas remember says anything about the write as a whole.
func lastWord(doubt bool, err error) error {
	if !doubt || errors.Is(err, dramnode.ErrUnknownOutcome) || errors.Is(err, dramnode.ErrGenerationMismatch) || errors.Is(err, dramnode.ErrNotFound) {
		return err
	}
	return fmt.Errorf("%w: an earlier attempt may have been applied; the last one: %v", dramnode.ErrUnknownOutcome, err)
}

// failure is the error for the caller after an attempt that was not stepDone.
func failure(write bool, r *reply) error {
	if err := r.err; err != nil {
		var place *placeError
		if write && (errors.Is(err, errReply) || errors.As(err, &place)) {
			return fmt.Errorf("%w: %v", dramnode.ErrUnknownOutcome, err)
		}
		return readable(write, err)
	}
	switch s := r.header.Status; s {
	case wire.StatusNotOwner:
		return fmt.Errorf("%w: the partition's owner is changing", dramnode.ErrUnavailable)
	case wire.StatusGenerationMismatch:
		return &dramnode.GenerationError{Current: r.ext.Generation}
	case wire.StatusOutOfRange:
		return fmt.Errorf("%w: the value has %d bytes", dramnode.ErrOutOfRange, r.ext.Size)
	default:
		err := s.Err()
		if s == wire.StatusClosed {
			err = dramnode.ErrUnavailable
		}
		if text := string(r.body); text != "" {
			return readable(write, &remoteError{err, text})
		}
		return readable(write, err)
	}
}

// readable hides an unknown outcome from readers: a read that failed changed nothing.
func readable(write bool, err error) error {
	if !write && errors.Is(err, dramnode.ErrUnknownOutcome) {
		return fmt.Errorf("%w: %s", dramnode.ErrUnavailable, strings.TrimPrefix(err.Error(), dramnode.ErrUnknownOutcome.Error()+": "))
	}
	return err
}

// A remoteError is a node's error with the node's own words.
type remoteError struct {
	kind error
	text string
}

func (e *remoteError) Error() string {
	if strings.Contains(e.text, e.kind.Error()) {
		return e.text
	}
	return e.kind.Error() + ": " + e.text
}

func (e *remoteError) Unwrap() error { return e.kind }
