package gossip

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/hashicorp/memberlist"

	"github.com/dramnode/dramnode"
)

const (
	// MaxMetaBytes limits an encoded Meta. memberlist panics on a longer one.
	MaxMetaBytes = memberlist.MetaMaxSize
	// MaxNameBytes limits a node's name, here as in the handshake.
	MaxNameBytes = 128
)

// Meta is what a node says of itself.
type Meta struct {
	Name         string // stable, from the user
	Incarnation  uint64 // random per process start, never 0
	Addr         string // UCX host:port
	HTTP         string // admin host:port, "" for none
	Zone         string
	Version      string // of the software
	Settings     uint64 // digest of the ring settings; nodes with another one are refused
	ClusterID    uint64 // of the cluster whose table the node holds, 0 for none yet
	TableVersion uint64
}

// A Member is a node as this one knows it.
type Member struct {
	Meta
	Alive      bool
	Since      time.Time // when Alive became what it is, by our clock
	GossipAddr string
}

// key is the node's name in memberlist.
func (m *Meta) key() string { return m.Name + "#" + strconv.FormatUint(m.Incarnation, 16) }

// texts are the fields of variable length, in the order of the encoding.
func (m *Meta) texts() []*string { return []*string{&m.Name, &m.Addr, &m.HTTP, &m.Zone, &m.Version} }

// numbers are the fields of fixed length, in the order of the encoding.
func (m *Meta) numbers() []*uint64 {
	return []*uint64{&m.Incarnation, &m.Settings, &m.ClusterID, &m.TableVersion}
}

func (m *Meta) validate() error {
	if n := len(m.Name); n == 0 || n > MaxNameBytes {
		return fmt.Errorf("gossip: %w: the name has %d bytes, want 1 to %d", dramnode.ErrInvalid, n, MaxNameBytes)
	}
	if m.Incarnation == 0 {
		return fmt.Errorf("gossip: %w: the incarnation of %q is 0", dramnode.ErrInvalid, m.Name)
	}
	for _, text := range m.texts() {
		if !utf8.ValidString(*text) {
			return fmt.Errorf("gossip: %w: %q is not UTF-8", dramnode.ErrInvalid, *text)
		}
	}
	return nil
}

// The layout, little-endian: version u8; the numbers, u64 each; per text a length u8 and as many bytes.
const (
	metaVersion    = 1
	metaFixedBytes = 1 + 4*8
)

// Append appends the encoding of m to dst. It fails with dramnode.ErrInvalid when m is not valid or
// takes more than MaxMetaBytes.
func (m Meta) Append(dst []byte) ([]byte, error) {
	if err := m.validate(); err != nil {
		return dst, err
	}
	bytes := metaFixedBytes
	for _, text := range m.texts() {
		if len(*text) > 255 {
			return dst, fmt.Errorf("gossip: %w: %.32q... has %d bytes, want at most 255", dramnode.ErrInvalid, *text, len(*text))
		}
		bytes += 1 + len(*text)
	}
	if bytes > MaxMetaBytes {
		return dst, fmt.Errorf("gossip: %w: what %q says of itself takes %d bytes, want at most %d; shorten the name, addresses, zone or version",
			dramnode.ErrInvalid, m.Name, bytes, MaxMetaBytes)
	}
	dst = append(dst, metaVersion)
	for _, number := range m.numbers() {
		dst = binary.LittleEndian.AppendUint64(dst, *number)
	}
	for _, text := range m.texts() {
		dst = append(append(dst, byte(len(*text))), *text...)
	}
	return dst, nil
}

// ParseMeta is the inverse of Append. The result shares no memory with b.
func ParseMeta(b []byte) (Meta, error) {
	var m Meta
	if len(b) < metaFixedBytes || len(b) > MaxMetaBytes {
		return m, fmt.Errorf("gossip: %w: metadata of %d bytes", dramnode.ErrInvalid, len(b))
	}
	if b[0] != metaVersion {
		return m, fmt.Errorf("gossip: %w: metadata of version %d, want %d", dramnode.ErrInvalid, b[0], metaVersion)
	}
	b = b[1:]
	for _, number := range m.numbers() {
		*number, b = binary.LittleEndian.Uint64(b), b[8:]
	}
	for _, text := range m.texts() {
		if len(b) == 0 || len(b)-1 < int(b[0]) {
			return Meta{}, fmt.Errorf("gossip: %w: metadata ends early", dramnode.ErrInvalid)
		}
		n := int(b[0])
		*text, b = string(b[1:1+n]), b[1+n:]
	}
	if len(b) != 0 {
		return Meta{}, fmt.Errorf("gossip: %w: %d bytes after the metadata", dramnode.ErrInvalid, len(b))
	}
	if err := m.validate(); err != nil {
		return Meta{}, err
	}
	return m, nil
}
