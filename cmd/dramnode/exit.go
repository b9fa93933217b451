package main

import (
	"errors"

	"github.com/dramnode/dramnode"
)

// exitCodes says which exit code stands for which error. The first that matches counts, so an
// outcome that is unknown stays so whatever caused it.
func exitCodes() []exitClass {
	return []exitClass{
		{dramnode.ErrUnknownOutcome, 6},
		{dramnode.ErrInvalid, 2},
		{dramnode.ErrOutOfRange, 2},
		{dramnode.ErrNotFound, 3},
		{dramnode.ErrGenerationMismatch, 4},
		{dramnode.ErrNoMemory, 7},
		{dramnode.ErrTooLarge, 7},
		{dramnode.ErrPartitionLost, 8},
		{dramnode.ErrNotAuthorised, 9},
		{dramnode.ErrNoQuorum, 5},
		{dramnode.ErrDegraded, 5},
		{dramnode.ErrUnavailable, 5},
		{dramnode.ErrBusy, 5},
	}
}

type exitClass struct {
	err  error
	code int
}

// exitCode is 0 for nil and 1 for what the table does not hold.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	for _, class := range exitCodes() {
		if errors.Is(err, class.err) {
			return class.code
		}
	}
	return 1
}
