package node

import (
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/replica"
)

const (
	recordShare  = 32       // of a node's memory its records may take, beside it: half as much again is garbage at times
	leastRecords = 16 << 20 // or this, if it is more

	fullPercent  = 90 // of a node's memory: from here on primaries refuse values for partitions of which it has a copy
	learnPercent = 85 // likewise: beyond it the node takes no values of partitions that it has yet to get in sync with
	usedInterval = 5 * time.Millisecond
	fullLife     = time.Second // how long it counts that a node was full: nothing may be sent to it that it could answer
)

// fullness is what this node knows of how full its memory, and the memory and records of others are. Those that are not full are not in it.
type fullness struct {
	looked atomic.Int64 // when own was, on the boot clock
	own    atomic.Uint32

	mu   sync.Mutex // held to replace full
	full atomic.Pointer[map[replica.ID]fullNode]
}

type fullNode struct {
	percent uint8 // of its memory
	crowded bool  // its records are full
	heard   int64 // on the boot clock
}

// used is how much of this node's memory is in use, in percent, as of a moment ago.
func (rs *replicas) used() uint8 {
	f, now := &rs.memory, rs.now()
	if looked := f.looked.Load(); now-looked >= int64(usedInterval) && f.looked.CompareAndSwap(looked, now) {
		f.own.Store(uint32(max(1, rs.n.store.Used()))) // 0 would be no answer
	}
	return uint8(f.own.Load())
}

// heard notes how full the sender of m says it is.
func (rs *replicas) heard(m *replica.Message) {
	if m.Used == 0 {
		return // most messages do not say
	}
	f := &rs.memory
	was, listed := f.of(m.From)
	is := fullNode{m.Used, m.Crowded, rs.now()}
	now, full := is.heard, m.Used >= fullPercent || m.Crowded
	if !full && !listed {
		return
	}
	if m.Used == was.percent && m.Crowded == was.crowded && now-was.heard < int64(fullLife)/4 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	next := map[replica.ID]fullNode{}
	if old := f.full.Load(); old != nil {
		next = maps.Clone(*old)
	}
	maps.DeleteFunc(next, func(_ replica.ID, n fullNode) bool { return now-n.heard >= int64(fullLife) })
	if delete(next, m.From); full {
		next[m.From] = is
	}
	f.full.Store(&next)
}

func (f *fullness) of(id replica.ID) (n fullNode, listed bool) {
	if all := f.full.Load(); all != nil {
		n, listed = (*all)[id]
	}
	return n, listed
}

// percent is how full a node's memory is if it is full, else 0.
func (rs *replicas) percent(id replica.ID) uint8 {
	if id == rs.shared.ID {
		if used := rs.used(); used >= fullPercent {
			return used
		}
		return 0
	}
	if n, listed := rs.memory.of(id); listed && n.percent >= fullPercent && rs.now()-n.heard < int64(fullLife) {
		return n.percent
	}
	return 0
}

// isCrowded implements replica.Node.
func (rs *replicas) isCrowded(id replica.ID) bool {
	n, listed := rs.memory.of(id)
	return listed && n.crowded && rs.now()-n.heard < int64(fullLife)
}

// isFull implements replica.Node.
func (rs *replicas) isFull(id replica.ID) bool { return rs.percent(id) > 0 }

// noRoom says who of a row had no room for a value.
func (rs *replicas) noRoom(row *replica.Row) error {
	for _, id := range row.Sync {
		if percent := rs.percent(id); percent > 0 {
			if n := rs.n.plane.member.Table().Node(id); n != nil {
				return fmt.Errorf("%w: node %s is %d %% full", dramnode.ErrNoMemory, n.Name, percent)
			}
		}
	}
	return fmt.Errorf("%w: a replica has no room for the value", dramnode.ErrNoMemory)
}

// noRecord says who of a row has no room to remember another write.
func (rs *replicas) noRecord(row *replica.Row) error {
	who := rs.shared.ID
	for _, id := range row.Sync {
		if rs.isCrowded(id) {
			who = id
		}
	}
	name := hex(uint64(who))
	if n := rs.n.plane.member.Table().Node(who); n != nil {
		name = n.Name
	}
	return fmt.Errorf("%w: the records of node %s are full: it remembers writes until their clients go on, or are silent for a minute", dramnode.ErrBusy, name)
}

func (rs *replicas) recordsInfo() control.RecordsInfo {
	r := rs.shared.Records
	return control.RecordsInfo{Bytes: r.Used(), Limit: r.Limit, Refused: r.Refused()}
}
