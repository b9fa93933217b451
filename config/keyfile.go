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
	key, err := readSecret(file)
	if err == nil && file != "" && (len(key) < MinKeyBytes || len(key) > MaxKeyBytes) {
		return nil, fmt.Errorf("%w: cluster key file %s has %d bytes, want %d to %d (openssl rand -hex 32 makes one)",
			dramnode.ErrInvalid, file, len(key), MinKeyBytes, MaxKeyBytes)
	}
	return key, err
}

// ReadPassword returns the password in file, likewise; "" for file "".
func ReadPassword(file string) (string, error) {
	password, err := readSecret(file)
	if err == nil && file != "" && (len(password) == 0 || len(password) > MaxKeyBytes) {
		return "", fmt.Errorf("%w: password file %s has %d bytes, want 1 to %d", dramnode.ErrInvalid, file, len(password), MaxKeyBytes)
	}
	return string(password), err
}

func readSecret(file string) ([]byte, error) {
	if file == "" {
		return nil, nil
	}
	secret, err := readLimited(file, MaxKeyBytes+2)
	return bytes.TrimRight(secret, "\r\n"), err
}
