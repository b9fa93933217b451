package group

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/dramnode/dramnode/control/leader"
	"github.com/dramnode/dramnode/control/lease"
	"github.com/dramnode/dramnode/control/state"
	"github.com/dramnode/dramnode/ring"
)

// A Kind says what a message carries.
type Kind uint8

const (
	KindRaft   Kind = 1  // Raft
	KindRenew  Kind = 2  // Renewal, to the leader
	KindGrant  Kind = 3  // Grant, from the leader
	KindAsk    Kind = 4  // Ask, to the leader; a join also to anybody
	KindRefuse Kind = 5  // Text: why the asked-for join will never be granted
	KindUsage  Kind = 6  // Usage, to the leader
	KindTable  Kind = 7  // Table: the receiver's era is over
	KindHello  Kind = 8  // Hello: to and from processes that may have no cluster yet
	KindSeal   Kind = 9  // Seal: the control plane is to be founded anew
	KindAsks   Kind = 10 // Asks of partitions, to the leader
)

// A Message goes from one process life to another. One for another life, cluster or era is dropped.
type Message struct {
	Kind     Kind
	Cluster  uint64 // 0 from a process without one
	Era      uint32
	From, To state.Incarnation // To is 0 when only an address is known
	Addr     string            // where to send it; not part of what is sent
	Reply    string            // where From listens

	Raft     []byte // raftpb.Message
	Renewal  lease.Renewal
	Grant    lease.Grant
	Ask      leader.Ask
	Asks     []leader.Ask
	Settings []byte        // with a join: ring.Config, which must be the cluster's
	MaxValue uint32        // with a join, likewise
	Lease    time.Duration // with a join, likewise
	Usage    []Usage
	Table    []byte
	Text     string
	Hello    Hello
	Seal     Seal
}

// A Usage is how large a partition is.
type Usage struct {
	Partition ring.Partition
	Bytes     uint64
}

// ErrMessage is wrapped by every error about bytes that cannot be a message.
var ErrMessage = errors.New("group: malformed message")

const (
	maxUsage = ring.MaxPartitions
)

const codecVersion = 1

// Append encodes m: layout, kind, cluster, era, the two lives, the sender's address and what the kind carries, as little-endian numbers
// and, for what has no fixed length, a length and as many bytes. What comes last has no length.
func (m *Message) Append(dst []byte) []byte {
	e := encoder{append(dst, codecVersion, byte(m.Kind))}
	e.u64(m.Cluster, uint64(m.Era), uint64(m.From), uint64(m.To))
	e.bytes([]byte(m.Reply))
	switch m.Kind {
	case KindRaft:
		e.rest(m.Raft)
	case KindRenew:
		e.u64(uint64(m.Renewal.Node), uint64(m.Renewal.Era), m.Renewal.Applied, uint64(m.Renewal.Sent))
	case KindGrant:
		e.u64(uint64(m.Grant.Era), uint64(m.Grant.Sent), uint64(m.Grant.Length))
		e.rest(m.Grant.Table)
	case KindAsk:
		e.ask(&m.Ask)
		e.u64(uint64(m.MaxValue), uint64(m.Lease))
		e.rest(m.Settings)
	case KindAsks:
		e.asks(m.Asks)
	case KindRefuse:
		e.rest([]byte(m.Text))
	case KindUsage:
		for _, u := range m.Usage {
			e.u64(uint64(u.Partition), u.Bytes)
		}
	case KindTable:
		e.rest(m.Table)
	case KindHello:
		m.Hello.encode(&e)
	case KindSeal:
		m.Seal.encode(&e)
	}
	return e.b
}

// ParseMessage decodes what Append wrote. The result refers to b.
func ParseMessage(b []byte) (Message, error) {
	d := decoder{b: b}
	if v := d.take(1)[0]; d.err == nil && v != codecVersion {
		d.fail("layout %d, want %d", v, codecVersion)
	}
	m := Message{Kind: Kind(d.take(1)[0])}
	m.Cluster, m.Era = d.u64(), uint32(d.number(1<<32-1))
	m.From, m.To = state.Incarnation(d.u64()), state.Incarnation(d.u64())
	m.Reply = string(d.bytes())
	switch m.Kind {
	case KindRaft:
		m.Raft = d.rest()
	case KindRenew:
		m.Renewal = lease.Renewal{Node: state.Incarnation(d.u64()), Era: uint32(d.number(1<<32 - 1)), Applied: d.u64(), Sent: time.Duration(d.number(1 << 62))}
	case KindGrant:
		m.Grant = lease.Grant{Era: uint32(d.number(1<<32 - 1)), Sent: time.Duration(d.number(1 << 62)), Length: time.Duration(d.number(1 << 62)), Table: d.rest()}
	case KindAsk:
		m.Ask = d.ask()
		m.MaxValue, m.Lease = uint32(d.number(1<<32-1)), time.Duration(d.number(1<<62))
		m.Settings = d.rest()
	case KindAsks:
		m.Asks = d.asks(m.From)
	case KindRefuse:
		m.Text = string(d.rest())
	case KindUsage:
		for len(d.b) > 0 && d.err == nil && len(m.Usage) < maxUsage {
			m.Usage = append(m.Usage, Usage{ring.Partition(d.number(ring.MaxPartitions)), d.u64()})
		}
	case KindTable:
		m.Table = d.rest()
	case KindHello:
		m.Hello = d.hello()
	case KindSeal:
		m.Seal = d.seal()
	default:
		d.fail("kind %d", m.Kind)
	}
	if d.err == nil && len(d.b) != 0 {
		d.fail("%d bytes too many", len(d.b))
	}
	if d.err == nil && !m.From.Valid() {
		d.fail("from %x", uint64(m.From))
	}
	return m, d.err
}

type encoder struct{ b []byte }

func (e *encoder) u64(vs ...uint64) {
	for _, v := range vs {
		e.b = binary.LittleEndian.AppendUint64(e.b, v)
	}
}
func (e *encoder) rest(b []byte) { e.b = append(e.b, b...) }
func (e *encoder) bytes(b []byte) {
	e.u64(uint64(len(b)))
	e.rest(b)
}

// ask encodes what a join or an operator wants as the command that would grant it.
func (e *encoder) ask(a *leader.Ask) {
	e.b = append(e.b, byte(a.Kind))
	e.u64(uint64(a.From), uint64(a.Partition), uint64(a.Epoch), uint64(a.Peer), a.AssignID, uint64(a.Count))
	var batch []state.Command
	switch a.Kind {
	case leader.AskJoin:
		batch = []state.Command{state.Join{Node: a.Node}, state.SetParams{Params: a.Params}}
	case leader.AskParams:
		batch = []state.Command{state.SetParams{Params: a.Params}}
	}
	e.bytes(state.AppendBatch(nil, batch))
}

type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrMessage, fmt.Sprintf(format, args...))
	}
	d.b = nil
}

// take returns n bytes, zeroes after an error.
func (d *decoder) take(n int) []byte {
	if n > len(d.b) {
		d.fail("%d bytes left, want %d", len(d.b), n)
		return make([]byte, 8)
	}
	out := d.b[:n]
	d.b = d.b[n:]
	return out
}

func (d *decoder) u64() uint64 { return binary.LittleEndian.Uint64(d.take(8)) }

func (d *decoder) number(limit uint64) uint64 {
	v := d.u64()
	if v > limit {
		d.fail("%d, at most %d", v, limit)
		return 0
	}
	return v
}

func (d *decoder) bytes() []byte {
	n := d.number(uint64(len(d.b)))
	if d.err != nil {
		return nil
	}
	return d.take(int(n))
}

func (d *decoder) rest() []byte {
	if d.err != nil || len(d.b) == 0 {
		return nil
	}
	return d.take(len(d.b))
}

func (d *decoder) ask() leader.Ask {
	a := leader.Ask{
		Kind: leader.AskKind(d.take(1)[0]), From: state.Incarnation(d.u64()), Partition: ring.Partition(d.number(ring.MaxPartitions)),
		Epoch: state.Epoch(d.number(1<<31 - 1)), Peer: state.Incarnation(d.u64()), AssignID: d.u64(), Count: uint32(d.number(1<<32 - 1)),
	}
	b := d.bytes()
	if d.err != nil {
		return a
	}
	batch, err := state.ParseBatch(b)
	if err != nil {
		d.fail("%v", err)
		return a
	}
	for _, c := range batch {
		switch c := c.(type) {
		case state.Join:
			a.Node = c.Node
		case state.SetParams:
			a.Params = c.Params
		default:
			d.fail("ask with %T", c)
		}
	}
	return a
}
