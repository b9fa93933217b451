package main

import (
	"errors"
	"fmt"
	"testing"

	"github.com/dramnode/dramnode"
)

func TestExitCode(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("anything"), 1},
		{dramnode.ErrCorrupt, 1},
		{dramnode.ErrClusterConflict, 1},
		{dramnode.ErrInvalid, 2},
		{dramnode.ErrOutOfRange, 2},
		{dramnode.ErrNotFound, 3},
		{&dramnode.GenerationError{Current: 7}, 4},
		{dramnode.ErrUnavailable, 5},
		{dramnode.ErrBusy, 5},
		{dramnode.ErrDegraded, 5},
		{dramnode.ErrNoQuorum, 5},
		{dramnode.ErrUnknownOutcome, 6},
		{dramnode.ErrNoMemory, 7},
		{dramnode.ErrTooLarge, 7},
		{dramnode.ErrPartitionLost, 8},
		{dramnode.ErrNotAuthorised, 9},
		{fmt.Errorf("get: %w", dramnode.ErrNotFound), 3},
		// What may have been applied must never look as if it was not.
		{fmt.Errorf("%w: %w: %w", dramnode.ErrUnavailable, dramnode.ErrUnknownOutcome, dramnode.ErrClosed), 6},
		{fmt.Errorf("%w: %w", dramnode.ErrUnavailable, dramnode.ErrNotAuthorised), 9},
	} {
		if got := exitCode(c.err); got != c.want {
			t.Errorf("exit code of %v is %d, want %d", c.err, got, c.want)
		}
	}
}
