package state

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/dramnode/dramnode/ring"
)

// The layout: one byte of version, one byte that says what follows, then fields as unsigned varints, and
// strings and settings as a length and as many bytes. Rows name nodes by their position in Nodes.
const codecVersion = 1

type kind uint8

const (
	kindFull  kind = 1 // a whole state
	kindDelta kind = 2 // what changed since a version
	kindBatch kind = 3 // commands
)

const (
	kindJoin kind = iota + 1
	kindSuspend
	kindReturn
	kindLeave
	kindRetire
	kindAssign
	kindPromote
	kindActivate
	kindReconfigure
	kindDeclareLost
	kindAcceptLoss
	kindSetParams
	kindKnow
)

const maxBatch = 1 << 17 // commands: two for each row

type encoder struct {
	b     []byte
	nodes *State // what positions refer to
}

func (e *encoder) uint(v uint64)    { e.b = binary.AppendUvarint(e.b, v) }
func (e *encoder) text(s string)    { e.uint(uint64(len(s))); e.b = append(e.b, s...) }
func (e *encoder) header(k kind)    { e.b = append(e.b, codecVersion, byte(k)) }
func (e *encoder) id(i Incarnation) { e.b = binary.LittleEndian.AppendUint64(e.b, uint64(i)) }

func (e *encoder) bit(on bool, value uint64) uint64 {
	if on {
		return value
	}
	return 0
}

func (e *encoder) position(i Incarnation) {
	at, _ := e.nodes.find(i)
	e.uint(uint64(at))
}

func (e *encoder) positions(set []Incarnation) {
	e.uint(uint64(len(set)))
	for _, i := range set {
		e.position(i)
	}
}

// Append encodes s.
func (s *State) Append(dst []byte) []byte {
	e := encoder{b: dst, nodes: s}
	e.header(kindFull)
	e.uint(s.ClusterID)
	e.uint(uint64(s.Era))
	e.uint(s.Version)
	e.text(string(s.Settings.Append(nil)))
	e.uint(uint64(s.MaxValue))
	e.uint(s.ParamsVersion)
	e.params(s.Params)
	e.nodeList(s)
	e.uint(uint64(len(s.Rows)))
	for p := range s.Rows {
		e.row(&s.Rows[p])
	}
	return e.b
}

// Delta encodes what changed after version since, for a peer of the same era that has that version or a
// later one. With nothing to tell it is about 20 bytes.
func (s *State) Delta(since uint64) []byte {
	e := encoder{nodes: s}
	e.header(kindDelta)
	e.uint(s.ClusterID)
	e.uint(uint64(s.Era))
	e.uint(since)
	e.uint(s.Version)
	e.uint(e.bit(s.ParamsVersion > since, 1) | e.bit(s.NodesVersion > since, 2))
	if s.ParamsVersion > since {
		e.uint(s.ParamsVersion)
		e.params(s.Params)
	}
	if s.NodesVersion > since {
		e.nodeList(s)
	}
	changed := 0
	for p := range s.Rows {
		if s.Rows[p].Modified > since {
			changed++
		}
	}
	e.uint(uint64(changed))
	for p := range s.Rows {
		if s.Rows[p].Modified > since {
			e.uint(uint64(p))
			e.row(&s.Rows[p])
		}
	}
	return e.b
}

func (e *encoder) params(p Params) {
	for _, v := range []uint64{
		uint64(p.Replicas), uint64(p.MinSync), uint64(p.Voters), uint64(p.MovesPerNode), uint64(p.Mode), uint64(p.OnLoss),
		uint64(p.Rereplicate), uint64(p.LostAfter), uint64(p.ForgetAfter), p.RebuildBudget,
	} {
		e.uint(v)
	}
}

func (e *encoder) nodeList(s *State) {
	e.uint(s.NodesVersion)
	e.uint(s.Forgotten)
	e.text(s.ForgottenName)
	e.uint(uint64(len(s.Nodes)))
	for i := range s.Nodes {
		e.node(&s.Nodes[i])
	}
}

func (e *encoder) node(n *Node) {
	e.id(n.Incarnation)
	e.uint(uint64(n.Status) | e.bit(n.Witness, 1<<3) | e.bit(n.Known, 1<<4))
	e.uint(n.Joined)
	e.text(n.Name)
	e.text(n.Addr)
	e.text(n.Zone)
}

const (
	rowActive  = 1 << iota // the activated set is the row's
	rowLearner             // has one
	rowLosses              // has some
)

func (e *encoder) row(r *Row) {
	e.uint(e.bit(r.Active(), rowActive) | e.bit(r.Learner != 0, rowLearner) | e.bit(r.LossCount|r.Doubts != 0, rowLosses))
	e.uint(uint64(r.Epoch))
	e.position(r.Primary)
	e.positions(r.Sync)
	if !r.Active() {
		e.uint(uint64(r.ActEpoch))
		e.positions(r.ActSync)
	}
	if r.Learner != 0 {
		e.position(r.Learner)
		e.uint(r.AssignID)
	}
	if r.LossCount|r.Doubts != 0 {
		e.uint(uint64(r.LossCount))
		e.uint(uint64(r.Doubts))
		e.uint(uint64(r.LossAccepted))
	}
	e.uint(r.EpochVersion)
	e.uint(r.Modified)
}

// A decoder reads fields until the first error, after which everything is zero.
type decoder struct {
	b     []byte
	err   error
	nodes []Node // what positions refer to
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = malformed(format, args...)
	}
	d.b = nil
}

// uint reads a number of at most limit.
func (d *decoder) uint(limit uint64, what string) uint64 {
	v, n := binary.Uvarint(d.b)
	if d.err != nil || n <= 0 || v > limit {
		d.fail("%s: no number up to %d", what, limit)
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) take(n int, what string) []byte {
	if d.err != nil || n > len(d.b) {
		d.fail("%s: %d bytes of %d", what, n, len(d.b))
		return nil
	}
	out := d.b[:n]
	d.b = d.b[n:]
	return out
}

func (d *decoder) text(limit int, what string) string {
	return string(d.take(int(d.uint(uint64(limit), what)), what))
}

func (d *decoder) id(what string) Incarnation {
	if b := d.take(8, what); b != nil {
		return Incarnation(binary.LittleEndian.Uint64(b))
	}
	return 0
}

func (d *decoder) header(want ...kind) kind {
	b := d.take(2, "header")
	if b == nil {
		return 0
	}
	if b[0] != codecVersion {
		d.fail("layout %d, want %d", b[0], codecVersion)
		return 0
	}
	for _, k := range want {
		if kind(b[1]) == k {
			return k
		}
	}
	d.fail("unexpected kind %d", b[1])
	return 0
}

func (d *decoder) position() Incarnation {
	at := d.uint(uint64(max(len(d.nodes), 1)-1), "position")
	if d.err != nil || len(d.nodes) == 0 {
		d.fail("position without nodes")
		return 0
	}
	return d.nodes[at].Incarnation
}

func (d *decoder) positions() []Incarnation {
	var set []Incarnation
	for range d.uint(maxCopies, "copies") {
		set = append(set, d.position())
	}
	return set
}

const maxSettings = 1 << 20

// any limits numbers that no limit applies to.
const anyNumber = 1<<64 - 1

// Parse decodes and validates what Append wrote. It keeps no part of b.
func Parse(b []byte) (*State, error) {
	d := decoder{b: b}
	d.header(kindFull)
	s := &State{ClusterID: d.uint(anyNumber, "cluster"), Era: uint32(d.uint(1<<32-1, "era")), Version: d.uint(anyNumber, "version")}
	settings := d.text(maxSettings, "settings")
	if d.err != nil {
		return nil, d.err
	}
	var err error
	if s.Settings, err = ring.ParseConfig([]byte(settings)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	s.MaxValue = uint32(d.uint(1<<32-1, "largest value"))
	s.ParamsVersion = d.uint(anyNumber, "version of params")
	s.Params = d.params()
	d.nodeList(s)
	count := d.uint(ring.MaxPartitions, "rows")
	for range count {
		if d.err != nil {
			return nil, d.err
		}
		s.Rows = append(s.Rows, d.row())
	}
	return s, d.end(s.Validate)
}

// Merge returns s after what Append or Delta wrote, validated; s itself when that is no newer. s may be
// nil for a whole state. A state of another cluster is refused with ErrCluster.
func (s *State) Merge(b []byte) (*State, error) {
	if len(b) > 1 && kind(b[1]) == kindFull {
		full, err := Parse(b)
		switch {
		case err != nil:
			return nil, err
		case s != nil && full.ClusterID != s.ClusterID:
			return nil, fmt.Errorf("%w: %x, ours is %x", ErrCluster, full.ClusterID, s.ClusterID)
		case !full.Newer(s):
			return s, nil
		}
		return full, nil
	}
	d := decoder{b: b}
	d.header(kindDelta)
	cluster, era := d.uint(anyNumber, "cluster"), uint32(d.uint(1<<32-1, "era"))
	since, version := d.uint(anyNumber, "since"), d.uint(anyNumber, "version")
	switch {
	case d.err != nil:
		return nil, d.err
	case s == nil:
		return nil, malformed("a delta for nothing")
	case cluster != s.ClusterID:
		return nil, fmt.Errorf("%w: %x, ours is %x", ErrCluster, cluster, s.ClusterID)
	case era != s.Era || since > s.Version:
		return nil, fmt.Errorf("%w: from version %d of era %d, ours is %d of %d", ErrGap, since, era, s.Version, s.Era)
	case version <= s.Version:
		return s, nil
	}
	next := s.clone()
	next.Version = version
	d.delta(next)
	return next, d.end(next.Validate)
}

func (d *decoder) delta(s *State) {
	parts := d.uint(3, "parts")
	if parts&1 != 0 {
		s.ParamsVersion = d.uint(anyNumber, "version of params")
		s.Params = d.params()
	}
	d.nodes = s.Nodes
	if parts&2 != 0 {
		s.Nodes = nil
		d.nodeList(s)
	}
	for range d.uint(uint64(len(s.Rows)), "rows") {
		p := d.uint(uint64(len(s.Rows)-1), "partition")
		if r := d.row(); d.err == nil {
			s.Rows[p] = r
		}
	}
}

func (d *decoder) end(validate func() error) error {
	if d.err == nil && len(d.b) != 0 {
		d.fail("%d bytes too many", len(d.b))
	}
	if d.err != nil {
		return d.err
	}
	return validate()
}

func (d *decoder) params() (p Params) {
	p.Replicas, p.MinSync = uint8(d.uint(255, "replicas")), uint8(d.uint(255, "minSync"))
	p.Voters, p.MovesPerNode = uint8(d.uint(255, "voters")), uint8(d.uint(255, "moves"))
	p.Mode, p.OnLoss = Mode(d.uint(255, "mode")), OnLoss(d.uint(255, "on loss"))
	p.Rereplicate = time.Duration(d.uint(1<<62, "rereplicate"))
	p.LostAfter = time.Duration(d.uint(1<<62, "lost after"))
	p.ForgetAfter = time.Duration(d.uint(1<<62, "forget after"))
	p.RebuildBudget = d.uint(anyNumber, "rebuild budget")
	return p
}

func (d *decoder) nodeList(s *State) {
	s.NodesVersion, s.Forgotten = d.uint(anyNumber, "version of nodes"), d.uint(anyNumber, "version of forgetting")
	s.ForgottenName = d.text(maxName, "name of the forgotten")
	for range d.uint(maxNodes, "nodes") {
		if d.err != nil {
			return
		}
		s.Nodes = append(s.Nodes, d.node())
	}
	d.nodes = s.Nodes
}

func (d *decoder) node() (n Node) {
	n.Incarnation = d.id("incarnation")
	flags := d.uint(31, "status")
	n.Status, n.Witness, n.Known = Status(flags&7), flags&8 != 0, flags&16 != 0
	n.Joined = d.uint(anyNumber, "version of joining")
	n.Name, n.Addr, n.Zone = d.text(maxName, "name"), d.text(maxAddr, "address"), d.text(maxName, "zone")
	return n
}

func (d *decoder) row() (r Row) {
	flags := d.uint(7, "row flags")
	r.Epoch = d.epoch()
	r.Primary = d.position()
	r.Sync = d.positions()
	if r.ActEpoch, r.ActSync = r.Epoch, r.Sync; flags&rowActive == 0 {
		r.ActEpoch, r.ActSync = d.epoch(), d.positions()
		if r.Active() {
			d.fail("active row in long form")
		}
	}
	if flags&rowLearner != 0 {
		r.Learner, r.AssignID = d.position(), d.uint(anyNumber, "assignment")
	}
	if flags&rowLosses != 0 {
		r.LossCount, r.Doubts = uint32(d.uint(1<<31, "losses")), uint32(d.uint(1<<31, "doubts"))
		r.LossAccepted = uint32(d.uint(1<<32-1, "accepted losses"))
	}
	r.EpochVersion, r.Modified = d.uint(anyNumber, "version of epoch"), d.uint(anyNumber, "version of row")
	return r
}

func (d *decoder) epoch() Epoch { return Epoch(d.uint(maxEpoch, "epoch")) }
