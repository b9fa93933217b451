package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/dramnode/dramnode"
)

// key returns the bytes of a key on the command line: those typed, or with --hex those they spell.
func (a *app) key(arg string) ([]byte, error) {
	key, err := a.bytes(arg)
	if err != nil {
		return nil, err
	}
	return key, dramnode.CheckKey(key)
}

// bytes is key for a prefix, which may be empty.
func (a *app) bytes(arg string) ([]byte, error) {
	if !a.hex {
		return []byte(arg), nil
	}
	b, err := hex.DecodeString(arg)
	if err != nil {
		return nil, fmt.Errorf("%w: --hex: %q: %w", dramnode.ErrInvalid, arg, err)
	}
	return b, nil
}

// keys is key for several arguments.
func (a *app) keys(args []string) ([][]byte, error) {
	keys := make([][]byte, len(args))
	for i, arg := range args {
		var err error
		if keys[i], err = a.key(arg); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

// show is key for people: as it is when all of it can be seen, else quoted, or in hexadecimal with --hex.
func (a *app) show(key []byte) string {
	if a.hex {
		return hex.EncodeToString(key)
	}
	if len(key) > 0 && key[0] != '"' && printable(string(key)) {
		return string(key)
	}
	return strconv.Quote(string(key))
}

// printable tells whether all of text can be seen on a terminal and takes one line.
func printable(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) })
}

// A jsonKey is a key for machines: a string, or {"hex": ...} when its bytes are not UTF-8.
type jsonKey []byte

func (k jsonKey) MarshalJSON() ([]byte, error) {
	if utf8.Valid(k) {
		return json.Marshal(string(k))
	}
	return json.Marshal(map[string]string{"hex": hex.EncodeToString(k)})
}
