package ring

import (
	"encoding/binary"
	"fmt"

	"github.com/dramnode/dramnode"
)

// The layout, little-endian: version u8, strategy u8, partitions u16, splits u16, rules u16; then per
// split, and twice per rule (prefix, node), a length u16 and as many bytes. One valid Config has one
// encoding.
const (
	codecVersion     = 1
	codecHeaderBytes = 8
)

// Append appends the encoding of c, which must be valid, to dst.
func (c Config) Append(dst []byte) []byte {
	c = c.canonical()
	le := binary.LittleEndian
	dst = append(dst, codecVersion, byte(c.Strategy))
	dst = le.AppendUint16(dst, uint16(c.Partitions))
	dst = le.AppendUint16(dst, uint16(len(c.Splits)))
	dst = le.AppendUint16(dst, uint16(len(c.Rules)))
	for _, split := range c.Splits {
		dst = appendText(dst, string(split))
	}
	for _, rule := range c.Rules {
		dst = appendText(dst, rule.Prefix)
		dst = appendText(dst, rule.Node)
	}
	return dst
}

func appendText(dst []byte, text string) []byte {
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(text)))
	return append(dst, text...)
}

// ParseConfig is the inverse of Append. It accepts no settings that Validate refuses, and the result
// shares no memory with b.
func ParseConfig(b []byte) (Config, error) {
	if len(b) < codecHeaderBytes {
		return Config{}, fmt.Errorf("ring: %w: settings of %d bytes", dramnode.ErrInvalid, len(b))
	}
	if b[0] != codecVersion {
		return Config{}, fmt.Errorf("ring: %w: settings of version %d, want %d", dramnode.ErrInvalid, b[0], codecVersion)
	}
	le := binary.LittleEndian
	c := Config{Strategy: Strategy(b[1]), Partitions: int(le.Uint16(b[2:]))}
	if used := c.Strategy != Range; used != (c.Partitions != 0) {
		return Config{}, fmt.Errorf("ring: %w: partitions = %d with strategy %v", dramnode.ErrInvalid, c.Partitions, c.Strategy)
	}
	r := textReader{rest: b[codecHeaderBytes:]}
	for range le.Uint16(b[4:]) {
		c.Splits = append(c.Splits, []byte(r.next()))
	}
	for range le.Uint16(b[6:]) {
		c.Rules = append(c.Rules, Rule{Prefix: r.next(), Node: r.next()})
	}
	if r.short || len(r.rest) != 0 {
		return Config{}, fmt.Errorf("ring: %w: settings of %d bytes do not end where they should", dramnode.ErrInvalid, len(b))
	}
	if err := c.Validate(); err != nil {
		return Config{}, err
	}
	return c, nil
}

// A textReader cuts texts off rest. Past the end it yields empty ones and sets short.
type textReader struct {
	rest  []byte
	short bool
}

func (r *textReader) next() string {
	if len(r.rest) < 2 {
		r.short = true
		return ""
	}
	n := int(binary.LittleEndian.Uint16(r.rest))
	if len(r.rest)-2 < n {
		r.short = true
		return ""
	}
	text := string(r.rest[2 : 2+n])
	r.rest = r.rest[2+n:]
	return text
}
