package client

import (
	"errors"
	"fmt"
	"strings"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/wire"
)

// A step is what follows an attempt.
type step uint8

const (
	stepDone    step = iota // the reply is good
	stepFail                // the error is final
	stepRetry               // after a pause
	stepRefresh             // after fetching the newer table that the reply told of
)

// decide says what follows an attempt that ended with a transport error or with a status. It keeps the
// promise of package dramnode: a write is sent again only when it was certainly not applied.
func decide(write bool, err error, status wire.Status, newerTable bool) step {
	if err != nil {
		return decideError(write, err)
	}
	switch status {
	case wire.StatusOK:
		return stepDone
	case wire.StatusNotOwner, wire.StatusUnavailable:
		if newerTable {
			return stepRefresh
		}
		return stepRetry
	case wire.StatusBusy, wire.StatusClosed: // a node that closes did not apply it; its partitions move
		return stepRetry
	case wire.StatusUnknownOutcome:
		if write {
			return stepFail
		}
		return stepRetry
	}
	return stepFail
}

func decideError(write bool, err error) step {
	var place *placeError
	switch {
	case errors.As(err, &place):
		if write || !errors.Is(err, dramnode.ErrBusy) {
			return stepFail
		}
		return stepRetry
	case errors.Is(err, dramnode.ErrNotAuthorised):
		return stepFail
	case errors.Is(err, dramnode.ErrUnknownOutcome):
		if write {
			return stepFail
		}
		return stepRetry
	case errors.Is(err, dramnode.ErrUnavailable), errors.Is(err, dramnode.ErrBusy):
		return stepRetry
	}
	return stepFail
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
