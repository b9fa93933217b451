package resp

import (
	"bytes"
	"errors"
	"fmt"
)

// Limits of what is parsed. A bulk, and a whole command, are limited by the cluster's longest value.
const (
	maxInlineBytes = 64 << 10 // of a command without lengths, and of a line with one
	maxArgs        = 1 << 17
	commandSlack   = 1 << 20 // of a command beyond the longest value

	// Of those who have not given the password.
	maxArgsBefore = 10
	maxBulkBefore = 16 << 10
)

// A scanner finds the end of the command at the beginning of a buffer, as bytes arrive. It looks at each byte
// once, skips bulks, and refuses what is too long as soon as its length is told.
type scanner struct {
	maxArgs, maxBulkBytes, maxCommandBytes int

	inArray bool
	at      int // bytes of the command that were looked at
	left    int // arguments to come, in an array
	need    int // bytes that must be there for a step more
}

// errProtocol is the kind of every error of a scanner; its text is for the client.
var errProtocol = errors.New("Protocol error")

func protocolError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errProtocol, fmt.Sprintf(format, args...))
}

// reset forgets the command that was found.
func (s *scanner) reset() { s.inArray, s.at, s.left, s.need = false, 0, 0, 0 }

// next returns the length of the command that b begins with, 0 when it is not complete. Then it is to be
// called again with at least s.need bytes of the same command.
func (s *scanner) next(b []byte) (n int, err error) {
	if len(b) < s.need || len(b) == 0 {
		return 0, nil
	}
	if !s.inArray {
		switch b[0] {
		case '*':
		case '$':
			return 0, protocolError("expected '*', got '$'")
		default:
			return s.inline(b)
		}
		count, ok, err := s.length(b, "multibulk")
		if err != nil || !ok {
			return 0, err
		}
		if count > s.maxArgs {
			if s.maxArgs == maxArgsBefore {
				return 0, protocolError("unauthenticated multibulk length")
			}
			return 0, protocolError("invalid multibulk length")
		}
		s.inArray, s.left = true, count
	}
	for ; s.left > 0; s.left-- {
		if ok, err := s.bulk(b); err != nil || !ok {
			return 0, err
		}
	}
	return s.at, nil
}

func (s *scanner) inline(b []byte) (int, error) {
	end := bytes.IndexByte(b[s.at:], '\n')
	switch {
	case end < 0 && len(b) > maxInlineBytes, end >= 0 && s.at+end > maxInlineBytes:
		return 0, protocolError("too big inline request")
	case end < 0:
		s.at, s.need = len(b), len(b)+1
		return 0, nil
	}
	return s.at + end + 1, nil
}

// bulk passes over one argument. A length that was read without its bytes is read again.
func (s *scanner) bulk(b []byte) (ok bool, err error) {
	start := s.at
	if start == len(b) {
		s.need = start + 1
		return false, nil
	}
	if b[start] != '$' {
		return false, protocolError("expected '$', got '%s'", printable(b[start]))
	}
	length, ok, err := s.length(b, "bulk")
	if err != nil || !ok {
		return false, err
	}
	if length < 0 || length > s.maxBulkBytes {
		if s.maxBulkBytes == maxBulkBefore && length > 0 {
			return false, protocolError("unauthenticated bulk length")
		}
		return false, protocolError("invalid bulk length")
	}
	end := s.at + length + 2
	if end > s.maxCommandBytes {
		return false, protocolError("command of more than %d bytes", s.maxCommandBytes)
	}
	if len(b) < end {
		s.at, s.need = start, end
		return false, nil
	}
	if b[end-2] != '\r' || b[end-1] != '\n' {
		return false, protocolError("no line end after a bulk of %d bytes", length)
	}
	s.at = end
	return true, nil
}

// length parses the line "*N\r\n" or "$N\r\n" at s.at and passes over it. ok is false when it is not all there.
func (s *scanner) length(b []byte, what string) (n int, ok bool, err error) {
	line := b[s.at:]
	end := bytes.IndexByte(line[:min(len(line), maxLengthBytes)], '\n')
	if end < 0 {
		if len(line) >= maxLengthBytes {
			return 0, false, protocolError("invalid %s length", what)
		}
		s.need = len(b) + 1
		return 0, false, nil
	}
	if end < 2 || line[end-1] != '\r' {
		return 0, false, protocolError("invalid %s length", what)
	}
	v, good := parseInt(line[1 : end-1])
	if !good || v != int64(int32(v)) {
		return 0, false, protocolError("invalid %s length", what)
	}
	s.at += end + 1
	return int(v), true, nil
}

const maxLengthBytes = 32 // of a line with a length

// printable shows one byte of a peer in a message.
func printable(b byte) string {
	if b < ' ' || b > '~' {
		return fmt.Sprintf("\\x%02x", b)
	}
	return string(rune(b))
}

// parseInt parses the one spelling that a number has: no plus, no leading zeros, no -0.
func parseInt(b []byte) (v int64, ok bool) {
	digits := b
	negative := len(b) > 0 && b[0] == '-'
	if negative {
		digits = b[1:]
	}
	if len(digits) == 0 || len(digits) > 19 || digits[0] == '0' && (len(digits) > 1 || negative) {
		return 0, false
	}
	u := uint64(0)
	for _, d := range digits {
		if d < '0' || d > '9' {
			return 0, false
		}
		u = u*10 + uint64(d-'0') // 19 digits fit
	}
	switch {
	case negative && u <= 1<<63:
		return int64(-u), true
	case !negative && u < 1<<63:
		return int64(u), true
	}
	return 0, false
}
