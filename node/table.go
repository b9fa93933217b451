package node

import (
	"context"

	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/router"
)

// onTable makes this node do what t says. It runs under the plane's lock, so it only switches states;
// what takes time goes to the janitor.
func (n *Node) onTable(_, t *control.Table) {
	// The view goes first. Who reads it under a partition's lock then sees the table that turn has
	// followed there or a newer one, which turn is about to follow.
	if v := n.show(t); v != nil {
		for p := range t.Rows {
			n.turn(v, uint16(p))
		}
		n.janitor.add(n.followTable)
	}
}

// show makes t what requests are routed by.
func (n *Node) show(t *control.Table) *router.View {
	v, err := router.NewView(t, n.self.Incarnation)
	if err != nil {
		n.cfg.Log.Error().Err(err).Msg("table not usable")
		return nil
	}
	n.view.Store(v)
	n.version.Store(t.Version)
	return v
}

// turn brings one partition from what this node did for it to what v says.
func (n *Node) turn(v *router.View, p uint16) {
	row, part := v.Table.Rows[p], &n.parts[p]
	mine := v.Self != control.None && row.Owner == v.Self
	part.mu.Lock()
	defer part.mu.Unlock()
	if part.receiving != 0 && part.receiving != row.MoveID && !(mine && row.Assigned == part.receiving) {
		part.receiving, part.received = 0, 0 // the move to us was called off
		n.janitor.add(func() { n.clean(p) })
	}
	switch {
	case mine && part.epoch == row.Epoch:
		if part.moveID != 0 && row.MoveID != part.moveID {
			n.endMoveLocked(p) // called off: what waited is served here after all
		}
		n.startMoveLocked(v, p)
	case mine:
		kept := part.epoch == 0 && row.Assigned != 0 && part.received == row.Assigned
		part.receiving, part.received = 0, 0
		n.becomeLocked(p, 0, part.phase)
		n.endMoveLocked(p)
		if kept {
			n.openLocked(v, p)
		} else {
			n.janitor.add(func() { n.openEmpty(p) })
		}
	case part.epoch != 0:
		n.becomeLocked(p, 0, part.phase)
		n.endMoveLocked(p)
		n.janitor.add(func() { n.clean(p) })
	}
}

// endMoveLocked stops being the source of a move, if this partition is one.
func (n *Node) endMoveLocked(p uint16) {
	part := &n.parts[p]
	if part.moveID != 0 {
		part.cancelMove()
		part.moveID, part.cancelMove = 0, nil
	}
	n.becomeLocked(p, part.epoch, serving)
	n.unparkLocked(part)
}

func (n *Node) unparkLocked(part *part) {
	if waiting := part.takeParkedLocked(); len(waiting) > 0 {
		n.janitor.add(func() { n.unpark(waiting) })
	}
}

// openLocked starts to serve a partition that v gives to this node, with the entries that are here.
func (n *Node) openLocked(v *router.View, p uint16) {
	part := &n.parts[p]
	n.becomeLocked(p, v.Table.Rows[p].Epoch, serving)
	n.startMoveLocked(v, p)
	n.unparkLocked(part)
}

// startMoveLocked starts the move that v orders of a partition served here, unless it is under way.
func (n *Node) startMoveLocked(v *router.View, p uint16) {
	row, part := v.Table.Rows[p], &n.parts[p]
	if row.MoveID == 0 || part.moveID != 0 {
		return
	}
	ctx, cancel := context.WithCancel(n.context)
	part.moveID, part.cancelMove = row.MoveID, cancel
	m := &move{n: n, partition: p, id: row.MoveID, target: v.Table.Members[row.MoveTo]}
	n.work.Go(func() { m.run(ctx) })
}

// clean frees the entries of a partition that this node has no part in any more.
func (n *Node) clean(p uint16) {
	part := &n.parts[p]
	part.cleaning.Lock()
	defer part.cleaning.Unlock()
	part.mu.RLock()
	wanted := part.epoch != 0 || part.receiving != 0
	part.mu.RUnlock()
	if wanted {
		return
	}
	n.empty(p)
}

// empty drops the partition's entries; the caller holds cleaning.
func (n *Node) empty(p uint16) {
	if err := n.store.EndReceive(p); err != nil {
		n.cfg.Log.Error().Err(err).Uint16("partition", p).Msg("partition not emptied")
	}
	if _, err := n.store.DropPartition(p); err != nil {
		n.cfg.Log.Error().Err(err).Uint16("partition", p).Msg("partition not emptied")
	}
}

// openEmpty starts to serve a partition that this node got without entries. Tables that follow each
// other closely order it more than once: only the first may empty it, since writes come after that.
func (n *Node) openEmpty(p uint16) {
	part := &n.parts[p]
	part.cleaning.Lock()
	defer part.cleaning.Unlock()
	part.mu.RLock()
	used := part.epoch != 0 || part.receiving != 0
	part.mu.RUnlock()
	if used {
		return
	}
	n.empty(p)
	part.mu.Lock()
	defer part.mu.Unlock()
	v := n.view.Load()
	if v.Self != control.None && v.Table.Rows[p].Owner == v.Self && part.epoch == 0 {
		n.openLocked(v, p)
	}
}
