package config

import (
	"bytes"
	"fmt"

	"github.com/dramnode/dramnode"
)

// Limits of a cluster key. Fewer bytes could be guessed.
const (
	MinKeyBytes = 16
	MaxKeyBytes = 1024
)

// ReadKey returns the cluster key in file, without the line end of its last line; nil for file "".
func ReadKey(file string) ([]byte, error) {
	if file == "" {
		return nil, nil
	}
	key, err := readLimited(file, MaxKeyBytes+2)
	if err != nil {
		return nil, err
	}
	key = bytes.TrimRight(key, "\r\n")
	if len(key) < MinKeyBytes || len(key) > MaxKeyBytes {
		return nil, fmt.Errorf("%w: cluster key file %s has %d bytes, want %d to %d (openssl rand -hex 32 makes one)",
			dramnode.ErrInvalid, file, len(key), MinKeyBytes, MaxKeyBytes)
	}
	return key, nil
}
