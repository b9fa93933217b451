package replica

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control/state"
	"github.com/dramnode/dramnode/wire"
)

// A message travels as a wire.Header of wire.KindReplica and a body. The header has the key, the epoch, and as its
// extension the rest in a fixed layout for each kind: so the receiver knows from it where a value that is still on its way
// has to land. The body is the one value that the message carries, or a list; the header's CRC is the body's.

// An Envelope says which replica a message is for. One for another cluster, era or life must not be stepped.
type Envelope struct {
	Cluster   uint64
	Era       uint32
	Partition uint16
}

// ErrMessage is wrapped by every error about bytes that cannot be a message.
var ErrMessage = errors.New("replica: malformed message")

const (
	codecLayout = 1

	commonBytes  = 56 // layout u8, kind u8, partition u16, era u32, cluster, from, to, assignment, floor, generation
	stageBytes   = 16 // staged, stages
	numberBytes  = 8
	versionBytes = 64 // flags u8 and 7 reserved; generation, same, ttl; bytes u32, crc u32; origin
	baseBytes    = 40 // flags u8 and 7 reserved; generation, ttl; bytes u32, crc u32; 8 reserved
	usedBytes    = 8  // percent u8, crowded u8 and 6 reserved
	pageBytes    = 32 // part u8, end u8 and 6 reserved; from, next, as of
	extMax       = commonBytes + stageBytes + numberBytes + versionBytes + baseBytes + pageBytes + usedBytes

	itemBytes = 40 // key bytes u16, deleted u8, 1 reserved; bytes u32, crc u32, 4 reserved; generation, ttl, pending; key
	memoBytes = 40 // origin, generation, age
	rowBytes  = 64 // five u32 of epochs and losses, sizes u8 of both sets, 2 reserved; five u64; the sets

	// MaxListBytes is the longest body that is not a value.
	MaxListBytes = 16 << 20
	maxSet       = maxPeers + 1
)

// What a kind has beside the common part.
const (
	withKey uint8 = 1 << iota
	withStage
	withNumber
	withVersion
	withBase
	withPage
	withList
	withUsed
)

var layouts = [...]uint8{
	Prepare:     withKey | withStage | withVersion,
	Ack:         withUsed,
	Need:        withNumber,
	Commit:      withKey,
	CommitAck:   0,
	Floor:       withStage,
	Floored:     withStage | withUsed,
	Stage:       withKey | withStage | withVersion,
	StageAck:    withStage | withUsed,
	StageRefuse: withStage | withUsed,
	Query:       withKey | withNumber,
	Answer:      withNumber,
	Seal:        withList,
	Sealed:      withList,
	Sync:        withKey | withNumber | withVersion | withBase,
	SyncAck:     withNumber,
	Chunk:       withStage | withPage | withList,
	ChunkAck:    withPage | withList,
	Fill:        withKey | withStage | withVersion,
	Filled:      0,
}

func (k Kind) has(part uint8) bool { return layouts[k]&part != 0 }

// Carried returns the copy whose value is the message's body, nil without one.
func (m *Message) Carried() *Copy {
	switch {
	case m.Version.Carried:
		return &m.Version
	case m.Base.Carried:
		return &m.Base
	}
	return nil
}

// AppendHeader appends the header of m. list is what AppendList wrote, nil where that writes nothing.
func (m *Message) AppendHeader(dst []byte, e Envelope, list []byte) []byte {
	var ext [extMax]byte
	h := wire.Header{Kind: wire.KindReplica, Epoch: uint32(m.Epoch), Ext: m.appendExt(ext[:0], e)}
	if m.Kind.has(withKey) {
		h.Key = m.Key
	}
	if c := m.Carried(); c != nil {
		h.CRC = c.Value.CRC
	} else if m.Kind.has(withList) {
		h.CRC = wire.Checksum(list)
	}
	return wire.AppendHeader(dst, &h)
}

func (m *Message) appendExt(b []byte, e Envelope) []byte {
	le := binary.LittleEndian
	b = append(b, codecLayout, byte(m.Kind))
	b = le.AppendUint16(b, e.Partition)
	b = le.AppendUint32(b, e.Era)
	b = appendWords(b, e.Cluster, uint64(m.From), uint64(m.To), m.Assign, uint64(m.Floor), uint64(m.Gen))
	if m.Kind.has(withStage) {
		b = appendWords(b, m.Staged, m.Stages)
	}
	if m.Kind.has(withNumber) {
		b = appendWords(b, m.Number)
	}
	if m.Kind.has(withVersion) {
		v := &m.Version
		b = appendWords(b, v.flags(), uint64(v.Gen), uint64(v.Same), uint64(v.TTL), v.size())
		b = appendWords(b, v.Origin.Client, v.Origin.Counter, v.Origin.FirstUnacked)
	}
	if m.Kind.has(withBase) {
		b = appendWords(b, m.Base.flags(), uint64(m.Base.Gen), uint64(m.Base.TTL), m.Base.size(), 0)
	}
	if m.Kind.has(withPage) {
		b = appendWords(b, uint64(m.Page.Part)|bit(m.Page.End)<<8, m.Page.From, m.Page.Next, uint64(m.Page.AsOf))
	}
	if m.Kind.has(withUsed) {
		b = appendWords(b, uint64(m.Used)|bit(m.Crowded)<<8)
	}
	return b
}

func appendWords(b []byte, words ...uint64) []byte {
	for _, w := range words {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	return b
}

func bit(set bool) uint64 {
	if set {
		return 1
	}
	return 0
}

func (c *Copy) flags() uint64 { return bit(c.Deleted) | bit(c.Carried)<<1 }
func (c *Copy) size() uint64  { return uint64(c.Value.Bytes) | uint64(c.Value.CRC)<<32 }

// AppendList appends the body of a message that carries no value: it has one if its kind has a list.
func (m *Message) AppendList(b []byte) []byte {
	switch {
	case m.Kind == Seal:
		return appendRow(b, m.Row)
	case m.Page.Part == PartMemory && m.Kind == Chunk:
		for i := range m.Memory {
			r := &m.Memory[i]
			b = appendWords(b, r.Origin.Client, r.Origin.Counter, r.Origin.FirstUnacked, uint64(r.Gen), uint64(r.Age))
		}
	default:
		for i := range m.Items {
			b = appendItem(b, &m.Items[i])
		}
	}
	return b
}

func appendItem(b []byte, it *Item) []byte {
	b = binary.LittleEndian.AppendUint16(b, uint16(len(it.Key)))
	b = append(b, byte(bit(it.Version.Deleted)), 0)
	b = binary.LittleEndian.AppendUint32(b, it.Version.Value.Bytes)
	b = appendWords(b, uint64(it.Version.Value.CRC), uint64(it.Version.Gen), uint64(it.Version.TTL), uint64(it.Pending))
	return append(b, it.Key...)
}

func appendRow(b []byte, r *Row) []byte {
	for _, n := range []uint32{uint32(r.Epoch), uint32(r.ActEpoch), r.LossCount, r.Doubts, r.LossAccepted} {
		b = binary.LittleEndian.AppendUint32(b, n)
	}
	b = append(b, byte(len(r.Sync)), byte(len(r.ActSync)), 0, 0)
	b = appendWords(b, uint64(r.Primary), uint64(r.Learner), r.AssignID, r.EpochVersion, r.Modified)
	for _, set := range [][]ID{r.Sync, r.ActSync} {
		for _, id := range set {
			b = appendWords(b, uint64(id))
		}
	}
	return b
}

// A decoder reads fields until the first error, after which everything is zero.
type decoder struct {
	b   []byte
	err error
}

var zeros [8]byte

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrMessage, fmt.Sprintf(format, args...))
	}
	d.b = nil
}

// take returns n bytes, at most 8, or any number of those that are left.
func (d *decoder) take(n int) []byte {
	if n > len(d.b) {
		d.fail("%d bytes left, want %d", len(d.b), n)
		return zeros[:min(n, len(zeros))]
	}
	out := d.b[:n:n]
	d.b = d.b[n:]
	return out
}

func (d *decoder) u8() uint8   { return d.take(1)[0] }
func (d *decoder) u16() uint16 { return binary.LittleEndian.Uint16(d.take(2)) }
func (d *decoder) u32() uint32 { return binary.LittleEndian.Uint32(d.take(4)) }
func (d *decoder) u64() uint64 { return binary.LittleEndian.Uint64(d.take(8)) }

func (d *decoder) number(limit uint64, what string) uint64 {
	v := d.u64()
	if v > limit {
		d.fail("%s %d, at most %d", what, v, limit)
		return 0
	}
	return v
}

func (d *decoder) gen() dramnode.Generation {
	return dramnode.Generation(d.number(1<<63-1, "generation"))
}
func (d *decoder) ttl() int64 { return int64(d.number(MaxTTL, "ttl")) }

// ParseMessage decodes a header; ParseList adds what is in a body. The result refers to h.
func ParseMessage(h *wire.Header) (e Envelope, m Message, err error) {
	d := decoder{b: h.Ext}
	if h.Kind != wire.KindReplica || h.Flags != 0 {
		d.fail("an operation of kind %d with flags %#x", h.Kind, h.Flags)
	}
	if layout := d.u8(); d.err == nil && layout != codecLayout {
		d.fail("layout %d, want %d", layout, codecLayout)
	}
	if m.Kind = Kind(d.u8()); d.err == nil && (m.Kind == 0 || int(m.Kind) >= len(layouts)) {
		d.fail("kind %d", m.Kind)
	}
	if d.err != nil {
		return e, Message{}, d.err
	}
	e = Envelope{Partition: d.u16(), Era: d.u32(), Cluster: d.u64()}
	m.From, m.To, m.Assign = ID(d.u64()), ID(d.u64()), d.u64()
	m.Floor, m.Gen = d.gen(), d.gen()
	if m.Epoch = Epoch(h.Epoch); h.Epoch == 0 || h.Epoch >= 1<<31 {
		d.fail("epoch %d", h.Epoch)
	}
	if !m.From.Valid() || !m.To.Valid() {
		d.fail("from %x to %x", uint64(m.From), uint64(m.To))
	}
	if m.Kind.has(withKey) {
		m.Key = h.Key
	}
	if len(m.Key) != len(h.Key) || len(h.Key) > dramnode.MaxKeyBytes {
		d.fail("kind %d with a key of %d bytes", m.Kind, len(h.Key))
	}
	d.parts(&m)
	d.generations(&m)
	d.crc(&m, h.CRC)
	if d.err == nil && len(d.b) != 0 {
		d.fail("%d bytes too many", len(d.b))
	}
	if d.err != nil {
		return Envelope{}, Message{}, d.err
	}
	return e, m, nil
}

func (d *decoder) parts(m *Message) {
	if m.Kind.has(withStage) {
		m.Staged, m.Stages = d.u64(), d.u64()
	}
	if m.Kind.has(withNumber) {
		m.Number = d.u64()
	}
	if m.Kind.has(withVersion) {
		v := &m.Version
		d.flags(v)
		v.Gen, v.Same, v.TTL = d.gen(), d.gen(), d.ttl()
		v.Value.Bytes, v.Value.CRC = d.u32(), d.u32()
		v.Origin = Origin{Client: d.u64(), Counter: d.u64(), FirstUnacked: d.u64()}
	}
	if m.Kind.has(withBase) {
		v := &m.Base
		d.flags(v)
		v.Gen, v.TTL = d.gen(), d.ttl()
		v.Value.Bytes, v.Value.CRC = d.u32(), d.u32()
		d.number(0, "reserved bytes")
	}
	if m.Version.Carried && m.Base.Carried {
		d.fail("two values")
	}
	if m.Kind.has(withPage) {
		p := d.number(1<<9-1, "part and end")
		m.Page = Page{Part: Part(p & 0xff), End: p>>8 != 0, From: d.u64(), Next: d.u64(), AsOf: d.gen()}
		if m.Page.Part == 0 || m.Page.Part > PartNames {
			d.fail("part %d", m.Page.Part)
		}
	}
	if m.Kind.has(withUsed) {
		u := d.number(1<<9-1, "percent of memory, and whether crowded")
		if m.Used, m.Crowded = uint8(u), u>>8 != 0; m.Used > 100 {
			d.fail("%d percent of memory", m.Used)
		}
	}
}

func (d *decoder) flags(c *Copy) {
	f := d.number(3, "flags")
	c.Deleted, c.Carried = f&1 != 0, f&2 != 0
	if c.Deleted && c.Carried {
		d.fail("a delete with a value")
	}
}

// generations holds that what is about a version names one.
func (d *decoder) generations(m *Message) {
	named := m.Gen != 0
	switch m.Kind {
	case Prepare:
		named = named && m.Version.Gen == m.Gen
	case Fill:
		named = m.Version.Gen != 0
	case Ack, Need, Commit, CommitAck, Filled:
	default:
		return
	}
	if !named {
		d.fail("kind %d of generation %d with version %d", m.Kind, m.Gen, m.Version.Gen)
	}
}

// crc holds the header's checksum against the value that the message carries.
func (d *decoder) crc(m *Message, crc uint32) {
	want := uint32(0)
	if c := m.Carried(); c != nil {
		want = c.Value.CRC
	}
	if crc != want && !m.Kind.has(withList) {
		d.fail("checksum %x of a body that has %x", crc, want)
	}
}

// CheckBody reports whether a body of n bytes goes with m, as it must be asked before there is room made for it.
func (m *Message) CheckBody(n int) error {
	want, what := 0, "exactly"
	switch c := m.Carried(); {
	case m.Kind.has(withList):
		if n <= MaxListBytes {
			return nil
		}
		want, what = MaxListBytes, "at most"
	case c != nil:
		want = int(c.Value.Bytes)
	}
	if n != want {
		return fmt.Errorf("%w: kind %d with a body of %d bytes, want %s %d", ErrMessage, m.Kind, n, what, want)
	}
	return nil
}

// ParseList adds to m what a body has that is no value; crc is the header's. m refers to b from then on.
func (m *Message) ParseList(b []byte, crc uint32) error {
	if !m.Kind.has(withList) {
		return m.CheckBody(len(b))
	}
	if err := m.CheckBody(len(b)); err != nil {
		return err
	}
	if got := wire.Checksum(b); got != crc {
		return fmt.Errorf("%w: checksum %x of a list, want %x", ErrMessage, got, crc)
	}
	d := decoder{b: b}
	switch {
	case m.Kind == Seal:
		m.Row = d.row(m.Epoch)
	case m.Kind == Chunk && m.Page.Part == PartMemory:
		for len(d.b) > 0 {
			r := Memo{Origin: Origin{Client: d.u64(), Counter: d.u64(), FirstUnacked: d.u64()}, Gen: d.gen(), Age: d.ttl()}
			m.Memory = append(m.Memory, r)
		}
	default:
		for len(d.b) > 0 {
			it := d.item()
			if m.Kind != Sealed && it.Version.Gen == 0 {
				d.fail("an item without a version")
			}
			m.Items = append(m.Items, it)
		}
	}
	if d.err == nil && len(d.b) > 0 {
		d.fail("%d bytes too many", len(d.b))
	}
	if d.err != nil {
		m.Row, m.Memory, m.Items = nil, nil, nil
	}
	return d.err
}

func (d *decoder) item() (it Item) {
	keyBytes, deleted := int(d.u16()), d.u16()
	it.Version.Deleted = deleted == 1
	it.Version.Value.Bytes = d.u32()
	it.Version.Value.CRC = uint32(d.number(1<<32-1, "checksum"))
	it.Version.Gen, it.Version.TTL, it.Pending = d.gen(), d.ttl(), d.gen()
	if keyBytes > dramnode.MaxKeyBytes || deleted > 1 {
		d.fail("an item with a key of %d bytes and flags %#x", keyBytes, deleted)
	}
	if d.err == nil {
		it.Key = d.take(keyBytes)
	}
	return it
}

func (d *decoder) row(epoch Epoch) *Row {
	r := &Row{Epoch: Epoch(d.u32()), ActEpoch: Epoch(d.u32()), LossCount: d.u32(), Doubts: d.u32(), LossAccepted: d.u32()}
	sync, activated := int(d.u8()), int(d.u8())
	if reserved := d.u16(); reserved != 0 || sync > maxSet || activated > maxSet || r.Epoch != epoch {
		d.fail("a row of epoch %d with sets of %d and %d", r.Epoch, sync, activated)
	}
	r.Primary, r.Learner, r.AssignID = ID(d.u64()), ID(d.u64()), d.u64()
	r.EpochVersion, r.Modified = d.u64(), d.u64()
	r.Sync, r.ActSync = d.ids(sync), d.ids(activated)
	if d.err == nil {
		if err := r.Validate(); err != nil {
			d.fail("%v", err)
		}
	}
	return r
}

func (d *decoder) ids(n int) (set []state.Incarnation) {
	for i := 0; i < n && d.err == nil; i++ {
		set = append(set, ID(d.u64()))
	}
	return set
}
