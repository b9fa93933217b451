package state

import (
	"errors"

	"github.com/dramnode/dramnode/ring"
)

// ErrCluster is wrapped when a state of another cluster arrives.
var ErrCluster = errors.New("state: another cluster")

// ErrGap is wrapped when a delta does not follow the state that it is for. A whole state helps.
var ErrGap = errors.New("state: delta does not follow")

// AppendBatch encodes the commands of one log entry.
func AppendBatch(dst []byte, batch []Command) []byte {
	e := encoder{b: dst}
	e.header(kindBatch)
	e.uint(uint64(len(batch)))
	for _, c := range batch {
		e.b = append(e.b, byte(c.kind()))
		c.encode(&e)
	}
	return e.b
}

// ParseBatch decodes what AppendBatch wrote. What the commands say is checked by Apply.
func ParseBatch(b []byte) ([]Command, error) {
	d := decoder{b: b}
	d.header(kindBatch)
	var batch []Command
	for range d.uint(maxBatch, "commands") {
		k := d.take(1, "command")
		if d.err != nil {
			return nil, d.err
		}
		batch = append(batch, d.command(kind(k[0])))
	}
	return batch, d.end(func() error { return nil })
}

func (d *decoder) command(k kind) Command {
	switch k {
	case kindJoin:
		return Join{Node: d.node(), Replaces: d.id("replaced")}
	case kindSuspend:
		return Suspend{d.id("node")}
	case kindReturn:
		return Return{d.id("node")}
	case kindLeave:
		return Leave{d.id("node")}
	case kindRetire:
		return Retire{d.id("node")}
	case kindKnow:
		return Know{d.id("node")}
	case kindAssign:
		return Assign{Partition: d.partition(), Epoch: d.epoch(), AssignID: d.uint(anyNumber, "assignment"), Learner: d.id("learner")}
	case kindPromote:
		return Promote{Partition: d.partition(), Epoch: d.epoch(), NewEpoch: d.epoch(), AssignID: d.uint(anyNumber, "assignment")}
	case kindActivate:
		return Activate{Partition: d.partition(), Epoch: d.epoch(), Primary: d.id("primary")}
	case kindReconfigure:
		return Reconfigure{Partition: d.partition(), Epoch: d.epoch(), NewEpoch: d.epoch(), Primary: d.id("primary"), Sync: d.ids()}
	case kindDeclareLost:
		return DeclareLost{Partition: d.partition(), Epoch: d.epoch(), NewEpoch: d.epoch(), Owner: d.id("owner")}
	case kindAcceptLoss:
		return AcceptLoss{Partition: d.partition(), Count: uint32(d.uint(1<<32-1, "losses"))}
	case kindSetParams:
		return SetParams{ParamsVersion: d.uint(anyNumber, "version of params"), Params: d.params()}
	}
	d.fail("command of kind %d", k)
	return nil
}

func (d *decoder) partition() ring.Partition {
	return ring.Partition(d.uint(ring.MaxPartitions-1, "partition"))
}

func (d *decoder) ids() []Incarnation {
	var set []Incarnation
	for range d.uint(maxCopies, "copies") {
		set = append(set, d.id("copy"))
	}
	return set
}

func (e *encoder) rowOf(p ring.Partition, epochs ...Epoch) {
	e.uint(uint64(p))
	for _, epoch := range epochs {
		e.uint(uint64(epoch))
	}
}

func (Join) kind() kind        { return kindJoin }
func (Suspend) kind() kind     { return kindSuspend }
func (Return) kind() kind      { return kindReturn }
func (Leave) kind() kind       { return kindLeave }
func (Retire) kind() kind      { return kindRetire }
func (Know) kind() kind        { return kindKnow }
func (Assign) kind() kind      { return kindAssign }
func (Promote) kind() kind     { return kindPromote }
func (Activate) kind() kind    { return kindActivate }
func (Reconfigure) kind() kind { return kindReconfigure }
func (DeclareLost) kind() kind { return kindDeclareLost }
func (AcceptLoss) kind() kind  { return kindAcceptLoss }
func (SetParams) kind() kind   { return kindSetParams }

func (c Join) encode(e *encoder)    { e.node(&c.Node); e.id(c.Replaces) }
func (c Suspend) encode(e *encoder) { e.id(c.Node) }
func (c Return) encode(e *encoder)  { e.id(c.Node) }
func (c Leave) encode(e *encoder)   { e.id(c.Node) }
func (c Retire) encode(e *encoder)  { e.id(c.Node) }
func (c Know) encode(e *encoder)    { e.id(c.Node) }

func (c Assign) encode(e *encoder) {
	e.rowOf(c.Partition, c.Epoch)
	e.uint(c.AssignID)
	e.id(c.Learner)
}

func (c Promote) encode(e *encoder) {
	e.rowOf(c.Partition, c.Epoch, c.NewEpoch)
	e.uint(c.AssignID)
}

func (c Activate) encode(e *encoder) {
	e.rowOf(c.Partition, c.Epoch)
	e.id(c.Primary)
}

func (c Reconfigure) encode(e *encoder) {
	e.rowOf(c.Partition, c.Epoch, c.NewEpoch)
	e.id(c.Primary)
	e.uint(uint64(len(c.Sync)))
	for _, i := range c.Sync {
		e.id(i)
	}
}

func (c DeclareLost) encode(e *encoder) {
	e.rowOf(c.Partition, c.Epoch, c.NewEpoch)
	e.id(c.Owner)
}

func (c AcceptLoss) encode(e *encoder) {
	e.rowOf(c.Partition)
	e.uint(uint64(c.Count))
}

func (c SetParams) encode(e *encoder) { e.uint(c.ParamsVersion); e.params(c.Params) }
