package object

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash"
	"hash/crc32"
	"math/bits"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"
	"github.com/minio/crc64nvme"
	"github.com/zeebo/xxh3"
)

// A SumKind says what a checksum is of.
type SumKind struct {
	Algorithm string `json:"a"`           // as S3 calls it, in lower case; "": there is no checksum
	Composite bool   `json:"c,omitempty"` // of the parts' checksums one behind the other, not of the content
}

// A Sum is a checksum of an object or a part. Its bytes are in base64; behind those of a composite one stands a dash and
// the number of parts.
type Sum struct {
	SumKind
	Text string `json:"v,omitempty"`
}

// DefaultSum is the algorithm for objects whose writers name none.
const DefaultSum = "crc64nvme"

type algorithm struct {
	make func() hash.Hash
	poly uint64 // of a CRC, reflected; 0: it is none, and the sum of a whole does not follow from those of its parts
}

var algorithms = map[string]algorithm{
	"crc32":     {func() hash.Hash { return crc32.NewIEEE() }, crc32.IEEE},
	"crc32c":    {func() hash.Hash { return crc32.New(crc32.MakeTable(crc32.Castagnoli)) }, crc32.Castagnoli},
	"crc64nvme": {func() hash.Hash { return crc64nvme.New() }, crc64nvme.NVME},
	"md5":       {md5.New, 0},
	"sha1":      {sha1.New, 0},
	"sha256":    {sha256.New, 0},
	"sha512":    {sha512.New, 0},
	"xxhash64":  {func() hash.Hash { return xxhash.New() }, 0},
	"xxhash3":   {func() hash.Hash { return xxh3.New() }, 0},
	"xxhash128": {func() hash.Hash { return xxh3.New128() }, 0},
}

// NewHash returns a hash of the algorithm; false when it is unknown.
func NewHash(name string) (hash.Hash, bool) {
	a, ok := algorithms[name]
	if !ok {
		return nil, false
	}
	return a.make(), true
}

// Valid tells whether there can be a checksum of this kind: that of a whole in parts must follow from the parts'.
func (k SumKind) Valid(inParts bool) bool {
	a, ok := algorithms[k.Algorithm]
	switch {
	case !ok || !inParts:
		return ok && !k.Composite
	case k.Composite:
		return k.Algorithm != DefaultSum // as Amazon has it
	}
	return a.poly != 0
}

// SumOf is the checksum that h says.
func SumOf(algorithm string, h hash.Hash) Sum {
	return Sum{SumKind{Algorithm: algorithm}, base64.StdEncoding.EncodeToString(h.Sum(nil))}
}

// bytes are what the text says; false when it is no checksum of this kind.
func (s Sum) bytes() ([]byte, bool) {
	h, ok := NewHash(s.Algorithm)
	if !ok {
		return nil, false
	}
	text := s.Text
	if s.Composite {
		var count string
		text, count, ok = strings.Cut(text, "-")
		if n, err := strconv.Atoi(count); ok && (err != nil || n < 1 || n > MaxParts || strconv.Itoa(n) != count) {
			return nil, false // without a count is how some clients say it
		}
	}
	b, err := base64.StdEncoding.DecodeString(text)
	return b, err == nil && len(b) == h.Size() && base64.StdEncoding.EncodeToString(b) == text // no line ends either
}

// WellFormed tells whether the text can be a checksum of its kind.
func (s Sum) WellFormed() bool {
	_, ok := s.bytes()
	return ok
}

// Is tells whether a client that says s of a checksum means this one: it may leave out the number of parts.
func (s Sum) Is(said Sum) bool {
	if s.SumKind != said.SumKind {
		return false
	}
	bare, _, _ := strings.Cut(s.Text, "-")
	return s.Text == said.Text || s.Composite && bare == said.Text
}

// combine is the checksum of a whole that consists of parts; false when it does not follow from what is known of them.
func combine(kind SumKind, parts []storedPart) (Sum, bool) {
	if !kind.Valid(true) || len(parts) == 0 {
		return Sum{}, false
	}
	var crc uint64
	a := algorithms[kind.Algorithm]
	all := a.make()
	for _, p := range parts {
		if len(p.Sums) == 0 || p.Sums[0].SumKind != (SumKind{Algorithm: kind.Algorithm}) {
			return Sum{}, false
		}
		b, ok := p.Sums[0].bytes()
		if !ok {
			return Sum{}, false
		}
		if kind.Composite {
			all.Write(b)
			continue
		}
		word := make([]byte, 8)
		copy(word[8-len(b):], b)
		crc = a.append(crc, binary.BigEndian.Uint64(word), p.Run.Bytes)
	}
	if kind.Composite {
		return Sum{kind, fmt.Sprintf("%s-%d", SumOf("", all).Text, len(parts))}, true
	}
	b := binary.BigEndian.AppendUint64(nil, crc)
	return Sum{kind, base64.StdEncoding.EncodeToString(b[8-all.Size():])}, true
}

// append is the CRC of two runs of bytes, one behind the other, of which the second has so many. The CRC of the first is
// carried on over as many zero bytes, which is a linear map of its bits: squared, it is that over twice as many.
func (a algorithm) append(first, second uint64, bytes int64) uint64 {
	width := 64
	if a.poly>>32 == 0 {
		width = 32
	}
	var step [64]uint64 // what each bit becomes over one zero bit; then two, four ...
	step[0] = a.poly
	for i := 1; i < width; i++ {
		step[i] = 1 << (i - 1)
	}
	for n := uint64(bytes) * 8; n > 0; n >>= 1 {
		if n&1 != 0 {
			first = apply(&step, first)
		}
		var twice [64]uint64
		for i := range width {
			twice[i] = apply(&step, step[i])
		}
		step = twice
	}
	return first ^ second
}

func apply(m *[64]uint64, v uint64) (sum uint64) {
	for ; v != 0; v &= v - 1 {
		sum ^= m[bits.TrailingZeros64(v)]
	}
	return sum
}
