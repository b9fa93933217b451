// Package router decides where a request goes: served here, forwarded once to the owner, or refused.
// It is the one place that decides, a pure function of one immutable view of the table.
package router

import (
	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/ring"
	"github.com/dramnode/dramnode/wire"
)

// A View is what one node decides by. It is immutable: a new table makes a new view.
type View struct {
	Table *control.Table
	Self  uint16 // this node's index in Table.Members, control.None when it is not one

	keys *ring.Map
}

// NewView prepares decisions of the process with this incarnation by table t.
func NewView(t *control.Table, incarnation uint64) (*View, error) {
	keys, err := ring.New(t.Settings)
	if err != nil {
		return nil, err
	}
	return &View{Table: t, Self: t.Index(incarnation), keys: keys}, nil
}

// An Action is what to do with a request.
type Action uint8

const (
	// Serve it here: the table says that this node owns the partition, or may answer gets of it. Whether it serves at this
	// instant, and in the epoch that the request expects, is the partition's to say.
	Serve Action = iota
	// Forward it to the owner with the hop flag.
	Forward
	// Refuse it as "not owner": the sender believed that we are the owner, or forwarded it already.
	Refuse
)

// A Decision is an action with its reasons.
type Decision struct {
	Action    Action
	Partition ring.Partition
	Row       *control.Row // of the table: read only
}

// Partition returns the partition of key.
func (v *View) Partition(key []byte) ring.Partition { return v.keys.Partition(key) }

// Route decides about a request for one key. Backups answer gets, the owner everything. A forwarded request is never forwarded again, so that
// two nodes that disagree cannot send it in a circle; a request with a fence was meant for this
// node alone, so its sender is better off with a newer table than with a detour. A relayed one is forwarded
// by the row that its sender knows, or not at all: a write that may be repeated must not be executed in an
// epoch of which its sender does not know whether partitions were lost before it.
func (v *View) Route(h *wire.Header) Decision {
	p := v.keys.Partition(h.Key)
	d := Decision{Partition: p, Row: &v.Table.Rows[p]}
	switch {
	case d.Row.Owner == v.Self || h.Kind == wire.KindGet && d.Row.IsBackup(v.Self):
		d.Action = Serve
	case h.Flags&wire.FlagHop != 0 || h.Flags&wire.FlagFence != 0 && (h.Flags&wire.FlagRelay == 0 || h.Epoch != d.Row.Epoch):
		d.Action = Refuse
	default:
		d.Action = Forward
	}
	return d
}
