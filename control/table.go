// Package control holds the table as routers, clients and people see it: which process owns which partition, in which
// epoch. It is what a node shows of the replicated state (package state), which the packages below decide about.
package control

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/ring"
)

// None stands for no member where a row names one by index.
const None uint16 = math.MaxUint16

// Limits on a table that a peer may send.
const (
	maxMembers   = ring.MaxMembers
	maxNameBytes = 128
	maxAddrBytes = 256
	maxSettings  = 1 << 20
)

// EraShift leaves the version of a replicated table so many bits below its era, so that each era is newer than all
// before.
const EraShift = 40

// MaxReplicas is how many copies of a partition there may be.
const MaxReplicas = 5

// ErrRetired ends a process whose incarnation the cluster does without: it may come back as a new one.
var ErrRetired = errors.New("control: the cluster goes on without this process")

// ErrTable is wrapped by every error about bytes that cannot be a table.
var ErrTable = errors.New("control: malformed table")

// A Member is one process, for one life: a restarted process is another member of the same name.
type Member struct {
	Name        string
	Incarnation uint64
	Addr        string // "host:port" that peers and clients dial
	Zone        string
	JoinSeq     uint64 // order of joining
	Leaving     bool   // gives its partitions away and is removed once it has none
}

// A Row says who owns one partition.
type Row struct {
	Epoch  uint32 // rises with every change of owner or copies: the fence that every write carries
	Owner  uint16 // index into Members
	MoveTo uint16 // the member that is being sent the partition, or None
	MoveID uint64 // the version that ordered the move; 0 without one
	Losses uint32 // how often all its entries, or acknowledged writes, may have been lost

	// Backups index the members that have every acknowledged write beside Owner, and answer gets. None
	// stands behind the last.
	Backups [MaxReplicas - 1]uint16
}

// NoBackups are those of a row of one copy.
var NoBackups = [MaxReplicas - 1]uint16{None, None, None, None}

// A Table is immutable once published: readers share one pointer.
type Table struct {
	ClusterID uint64
	Version   uint64
	MaxValue  uint32 // bytes
	Replicas  uint8  // wanted copies of each partition
	Settings  ring.Config
	Members   []Member // ascending by (JoinSeq, Name)
	Rows      []Row    // one per partition
}

// Index returns the position of an incarnation in Members, or None.
func (t *Table) Index(incarnation uint64) uint16 {
	for i := range t.Members {
		if t.Members[i].Incarnation == incarnation {
			return uint16(i)
		}
	}
	return None
}

// Named returns the position of the member called name, or None.
func (t *Table) Named(name string) uint16 {
	for i := range t.Members {
		if t.Members[i].Name == name {
			return uint16(i)
		}
	}
	return None
}

// Owned counts the rows of each member.
func (t *Table) Owned() []int {
	owned := make([]int, len(t.Members))
	for i := range t.Rows {
		if o := t.Rows[i].Owner; o != None {
			owned[o]++
		}
	}
	return owned
}

// Copies counts the rows of which each member has a copy in sync.
func (t *Table) Copies() []int {
	copies := t.Owned()
	for i := range t.Rows {
		for _, b := range t.Rows[i].Backups {
			if b != None {
				copies[b]++
			}
		}
	}
	return copies
}

// Losses sums the rows' losses.
func (t *Table) Losses() (n uint64) {
	for i := range t.Rows {
		n += uint64(t.Rows[i].Losses)
	}
	return n
}

const rowBytes = 20 + 2*(MaxReplicas-1)

// Append encodes t after dst: fixed fields, settings, members, rows; integers are little-endian.
func (t *Table) Append(dst []byte) []byte {
	le := binary.LittleEndian
	dst = le.AppendUint64(dst, t.ClusterID)
	dst = le.AppendUint64(dst, t.Version)
	dst = le.AppendUint32(dst, t.MaxValue)
	dst = append(dst, t.Replicas)
	settings := t.Settings.Append(nil)
	dst = le.AppendUint32(dst, uint32(len(settings)))
	dst = append(dst, settings...)
	dst = le.AppendUint16(dst, uint16(len(t.Members)))
	for i := range t.Members {
		dst = t.Members[i].append(dst)
	}
	dst = le.AppendUint32(dst, uint32(len(t.Rows)))
	for _, r := range t.Rows {
		dst = AppendRow(dst, r)
	}
	return dst
}

func (m *Member) append(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, m.Incarnation)
	dst = binary.LittleEndian.AppendUint64(dst, m.JoinSeq)
	var leaving byte
	if m.Leaving {
		leaving = 1
	}
	dst = append(dst, leaving)
	for _, s := range []string{m.Name, m.Addr, m.Zone} {
		dst = binary.LittleEndian.AppendUint16(dst, uint16(len(s)))
		dst = append(dst, s...)
	}
	return dst
}

// AppendRow encodes one row in 28 bytes; "not owner" replies carry it.
func AppendRow(dst []byte, r Row) []byte {
	le := binary.LittleEndian
	dst = le.AppendUint32(dst, r.Epoch)
	dst = le.AppendUint16(dst, r.Owner)
	dst = le.AppendUint16(dst, r.MoveTo)
	dst = le.AppendUint64(dst, r.MoveID)
	dst = le.AppendUint32(dst, r.Losses)
	for _, b := range r.Backups {
		dst = le.AppendUint16(dst, b)
	}
	return dst
}

// A decoder reads fields until the first error.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) take(n int) []byte {
	if d.err == nil && n > len(d.b) {
		d.err = fmt.Errorf("%w: %d bytes left, want %d", ErrTable, len(d.b), n)
	}
	if d.err != nil {
		return make([]byte, min(n, 8))
	}
	out := d.b[:n]
	d.b = d.b[n:]
	return out
}

func (d *decoder) u16() uint16 { return binary.LittleEndian.Uint16(d.take(2)) }
func (d *decoder) u32() uint32 { return binary.LittleEndian.Uint32(d.take(4)) }
func (d *decoder) u64() uint64 { return binary.LittleEndian.Uint64(d.take(8)) }

// text reads a length and that many bytes, at most limit.
func (d *decoder) text(limit int, what string) string {
	n := int(d.u16())
	if d.err == nil && n > limit {
		d.err = fmt.Errorf("%w: %s of %d bytes, at most %d", ErrTable, what, n, limit)
	}
	if d.err != nil {
		return ""
	}
	return string(d.take(n))
}

func (d *decoder) member() (m Member) {
	m.Incarnation, m.JoinSeq = d.u64(), d.u64()
	leaving := d.take(1)[0]
	if d.err == nil && leaving > 1 {
		d.err = fmt.Errorf("%w: leaving flag %d", ErrTable, leaving)
	}
	m.Leaving = leaving == 1
	m.Name = d.text(maxNameBytes, "name")
	m.Addr = d.text(maxAddrBytes, "address")
	m.Zone = d.text(maxNameBytes, "zone")
	return m
}

func (d *decoder) row() (r Row) {
	r.Epoch, r.Owner, r.MoveTo = d.u32(), d.u16(), d.u16()
	r.MoveID, r.Losses = d.u64(), d.u32()
	for i := range r.Backups {
		r.Backups[i] = d.u16()
	}
	return r
}

// ParseTable decodes and validates what Append wrote. It keeps no part of b.
func ParseTable(b []byte) (*Table, error) {
	d := decoder{b: b}
	t := &Table{ClusterID: d.u64(), Version: d.u64(), MaxValue: d.u32(), Replicas: d.take(1)[0]}
	n := int(d.u32())
	if d.err == nil && n > maxSettings {
		d.err = fmt.Errorf("%w: settings of %d bytes", ErrTable, n)
	}
	if settings := d.take(min(n, maxSettings)); d.err == nil {
		if t.Settings, d.err = ring.ParseConfig(append([]byte(nil), settings...)); d.err != nil {
			return nil, fmt.Errorf("%w: %w", ErrTable, d.err)
		}
	}
	if n = int(d.u16()); d.err == nil && n > maxMembers {
		d.err = fmt.Errorf("%w: %d members, at most %d", ErrTable, n, maxMembers)
	}
	for range n {
		if d.err != nil {
			return nil, d.err
		}
		t.Members = append(t.Members, d.member())
	}
	if n = int(d.u32()); d.err == nil && n*rowBytes != len(d.b) {
		d.err = fmt.Errorf("%w: %d rows in %d bytes", ErrTable, n, len(d.b))
	}
	if d.err != nil {
		return nil, d.err
	}
	t.Rows = make([]Row, n)
	for i := range t.Rows {
		t.Rows[i] = d.row()
	}
	if d.err != nil {
		return nil, d.err
	}
	return t, t.Validate()
}

// Validate reports the first broken rule of a table.
func (t *Table) Validate() error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrTable, fmt.Sprintf(format, args...))
	}
	if t.ClusterID == 0 || t.Version == 0 {
		return fail("cluster %#x, version %d: none may be 0", t.ClusterID, t.Version)
	}
	if err := t.Settings.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrTable, err)
	}
	if t.Replicas < 1 || t.Replicas > MaxReplicas {
		return fail("%d replicas, want 1 to %d", t.Replicas, MaxReplicas)
	}
	if len(t.Rows) != t.Settings.Count() {
		return fail("%d rows for %d partitions", len(t.Rows), t.Settings.Count())
	}
	if len(t.Members) == 0 || len(t.Members) > maxMembers {
		return fail("%d members", len(t.Members))
	}
	names, lives := make(map[string]bool, len(t.Members)), make(map[uint64]bool, len(t.Members))
	for i, m := range t.Members {
		if err := checkMember(m); err != nil {
			return err
		}
		if names[m.Name] {
			return fail("two members are called %q", m.Name)
		}
		if lives[m.Incarnation] {
			return fail("two members have incarnation %#x", m.Incarnation)
		}
		names[m.Name], lives[m.Incarnation] = true, true
		if i > 0 && !before(&t.Members[i-1], &t.Members[i]) {
			return fail("members %q and %q are out of order", t.Members[i-1].Name, m.Name)
		}
	}
	for p, r := range t.Rows {
		if int(r.Owner) >= len(t.Members) || r.MoveTo != None && int(r.MoveTo) >= len(t.Members) {
			return fail("row %d names member %d or %d of %d", p, r.Owner, r.MoveTo, len(t.Members))
		}
		if (r.MoveTo == None) != (r.MoveID == 0) || r.MoveTo == r.Owner {
			return fail("row %d moves to %d from %d under id %d", p, r.MoveTo, r.Owner, r.MoveID)
		}
		if r.Epoch == 0 || r.Epoch > math.MaxInt32 {
			return fail("row %d has epoch %d", p, r.Epoch)
		}
		if !r.backupsValid(len(t.Members)) {
			return fail("row %d at %d has backups %d of %d members", p, r.Owner, r.Backups, len(t.Members))
		}
	}
	return nil
}

// backupsValid reports whether the backups are other members than the owner and the target of a move,
// each named once, before the first None.
func (r *Row) backupsValid(members int) bool {
	for i, b := range r.Backups {
		switch {
		case b == None:
		case int(b) >= members || b == r.Owner || b == r.MoveTo || slices.Contains(r.Backups[:i], b) || slices.Contains(r.Backups[:i], None):
			return false
		}
	}
	return true
}

// IsBackup reports whether member i, which may be None, is one of the backups.
func (r *Row) IsBackup(i uint16) bool { return i != None && slices.Contains(r.Backups[:], i) }

func checkMember(m Member) error {
	if m.Name == "" || len(m.Name) > maxNameBytes || m.Addr == "" || len(m.Addr) > maxAddrBytes || len(m.Zone) > maxNameBytes || m.Incarnation == 0 {
		return fmt.Errorf("%w: %w: member %q at %q with incarnation %#x", ErrTable, dramnode.ErrInvalid, m.Name, m.Addr, m.Incarnation)
	}
	return nil
}

func before(a, b *Member) bool {
	if a.JoinSeq != b.JoinSeq {
		return a.JoinSeq < b.JoinSeq
	}
	return a.Name < b.Name
}
