package replica

import (
	"math/bits"
	"slices"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/internal/rule"
	"github.com/dramnode/dramnode/wire"
)

// A Config holds a node's limits. Times are nanoseconds.
type Config struct {
	InlineBytes  uint32 // a longer value is staged before its write is ordered
	MinSync      int    // fewer replicas in sync than this refuse writes as wire.StatusDegraded
	Resend       int64  // what is not acknowledged is sent again
	Report       int64  // who does not acknowledge is reported
	StageTimeout int64  // a value that is not with every replica by then is refused
	DedupLife    int64  // a silent client's records are forgotten; no copy of a request lives as long
	MaxWrites    int    // unresolved writes of a partition
	MaxRecords   int    // remembered writes of one client
	PageItems    int    // items of a Chunk
}

// Default is the Config of a cluster with the default lease of a second.
var Default = Config{
	InlineBytes:  16 << 10,
	MinSync:      1,
	Resend:       20e6,
	Report:       300e6,
	StageTimeout: 5e9,
	DedupLife:    60e9,
	MaxWrites:    1024,
	MaxRecords:   4096,
	PageItems:    256,
}

// A Node is what the partitions of one process share.
type Node struct {
	ID     ID
	Config Config

	// Until returns the instant from which on this node serves nothing: when the last granted renewal was sent, plus
	// the lease. It must rise only after every partition adopted its row of the table granted with it.
	Until func() int64

	// Full reports whether a replica, this one too, has so little memory left that writes which need some are refused. It
	// goes by what the others' messages say (Message.Used). nil: nobody ever is.
	Full func(ID) bool

	// Records is the account of what all of them remember writes in.
	Records *Records

	// Crowded reports whether the Records of another replica are full. It goes by what its messages say
	// (Message.Crowded). nil: nobody's ever are.
	Crowded func(ID) bool
}

// A peerSet holds positions in Partition.peers, and learnerBit.
type peerSet uint32

const (
	maxPeers           = 31
	learnerBit peerSet = 1 << maxPeers
)

// A Partition is one replica of one partition. The zero role is none: it holds what it holds and serves nothing.
type Partition struct {
	node   *Node
	store  Store
	row    *Row
	lead   *lead // not nil: this node is the row's primary
	memory *memory

	floor dramnode.Generation // every version below is resolved here
	heard bool                // the primary of this epoch is active

	peers   []ID // of Row.Sync, without this node; a peer's bit is its position
	stages  []staged
	staged  uint64 // the primary is done with every stage below
	queries []query
	queried uint64 // the last query's number
}

// New returns the replica of a partition without a row.
func New(n *Node, s Store) *Partition { return &Partition{node: n, store: s, row: &noRow} }

var noRow Row // epoch 0 is before all others

// Row returns the adopted row, never nil.
func (p *Partition) Row() *Row { return p.row }

// Active reports whether this replica is its partition's primary and serves.
func (p *Partition) Active() bool { return p.lead != nil && p.lead.phase == active }

// Alone reports whether this replica is an active primary whose writes go to nobody else.
func (p *Partition) Alone() bool { return p.Active() && p.audience() == 0 }

// Evictable reports whether entries may vanish here to make room, as if they had been deleted. They may at a primary alone, whose
// generations are never used again, whatever is gone: a condition then meets a missing key. While others hold the partition too, or are being
// filled, they may not: a delete of a key that is missing here is answered at once and sent to nobody, so that a copy elsewhere would come back.
// What vanished before a learner was attached it is not sent, and what it has of it from an earlier time it is told to remove. The entries
// of a replica that the table does without are of no use but as such a base.
func (p *Partition) Evictable() bool { return p.Alone() || p.Removable() }

// Busy reports whether Tick must come every few milliseconds; otherwise once a second is enough.
func (p *Partition) Busy() bool {
	return len(p.queries) > 0 || p.lead != nil && p.lead.busy(p.audience())
}

// Serves reports whether gets are answered here, and whether for keys with a pending version too. Overdue entries are
// for Do in any case. Like those of Do, answers count if Confirm holds afterwards.
func (p *Partition) Serves() (gets, dirty bool) {
	if p.lead != nil {
		return p.lead.phase == active, true
	}
	return p.inSync(), false
}

// Holds reports whether this replica is in sync by its row, whether that serves already or not.
func (p *Partition) Holds() bool { return p.inSync() }

// Confirm reports whether what an Observed reply of that epoch tells may be told. now must be read after the step
// that made the reply.
func (p *Partition) Confirm(now int64, epoch Epoch) bool {
	return (p.leased(now) || rule.Off(rule.LeaseOnRead) || rule.Off(rule.LeaseAfterCapture)) &&
		(epoch == p.row.Epoch || rule.Off(rule.EpochAfterCapture))
}

func (p *Partition) leased(now int64) bool { return now < p.node.Until() }

func (p *Partition) inSync() bool    { return slices.Contains(p.row.Sync, p.node.ID) }
func (p *Partition) isLearner() bool { return p.row.Learner == p.node.ID && !p.inSync() }

// Adopt takes the row of a newer table, which must not change any more.
func (p *Partition) Adopt(now int64, row *Row, out *Effects) {
	switch {
	case row.Epoch > p.row.Epoch:
		p.enter(now, row, out)
	case row.Epoch == p.row.Epoch && row.Modified > p.row.Modified:
		p.refresh(now, row, out)
	}
}

// enter begins an epoch. From here on nothing of an older one is acknowledged.
func (p *Partition) enter(now int64, row *Row, out *Effects) {
	old := p.lead
	p.lead = nil
	p.dropQueries(out)
	p.dropStages()
	lost := row.LossCount > p.row.LossCount && !rule.Off(rule.LossClears)
	p.row, p.floor, p.heard, p.staged = row, 0, false, 0
	p.peers = p.peers[:0]
	for _, id := range row.Sync {
		if id != p.node.ID && len(p.peers) < maxPeers {
			p.peers = append(p.peers, id)
		}
	}
	if lost {
		p.store.Clear()
		p.unremember()
	}
	p.forgetPendings()
	if row.Primary == p.node.ID {
		p.lead = &lead{since: now}
		if rule.Off(rule.RollForward) {
			p.store.Pendings(func(key []byte, _ Version, _ Pending) { p.store.Forget(key) })
		}
	}
	if old != nil {
		p.abdicate(old, out)
	}
	if p.lead != nil {
		p.seal(now, out)
	}
}

// refresh takes a newer row of the same epoch: an activation, or another learner.
func (p *Partition) refresh(now int64, row *Row, out *Effects) {
	reassigned := row.AssignID != p.row.AssignID || row.Learner != p.row.Learner
	p.row = row
	if reassigned && !p.inSync() {
		p.dropStages()
		p.forgetPendings()
	}
	if p.lead == nil {
		return
	}
	if p.lead.phase == synced && row.ActEpoch == row.Epoch {
		p.activate(now, out)
	}
	if reassigned && p.Active() {
		p.attach(now, out)
	}
}

// forgetPendings begins a new life as a learner. Only an assignment, which is made under an activated
// configuration without this replica, allows it: before that its pending versions may be the last copies of
// acknowledged writes.
func (p *Partition) forgetPendings() {
	safe := p.isLearner() && !slices.Contains(p.row.ActSync, p.node.ID) && !rule.Off(rule.ForgetOnAssign)
	if rule.Off(rule.ForgetOnlyOnAssign) && !p.inSync() {
		safe = true
	}
	if !safe {
		return
	}
	p.floor = 0
	p.store.Pendings(func(key []byte, _ Version, _ Pending) { p.store.Forget(key) })
}

// Removable reports whether this replica's entries are of no use but as a base for a later assignment: a
// configuration without it was activated, and it is not being brought in sync.
func (p *Partition) Removable() bool {
	if p.inSync() || p.isLearner() {
		return false
	}
	activated := p.row.ActEpoch == p.row.Epoch && !slices.Contains(p.row.ActSync, p.node.ID)
	return activated || rule.Off(rule.ForgetOnlyOnAssign)
}

// Remove forgets all entries, if Removable.
func (p *Partition) Remove() {
	if p.Removable() {
		p.store.Clear()
		p.unremember()
	}
}

// Step takes a message of another replica.
func (p *Partition) Step(now int64, m *Message, out *Effects) {
	if m.Kind == Seal {
		p.onSeal(now, m, out)
		return
	}
	if !p.accepts(m) {
		p.refuse(m)
		return
	}
	switch m.Kind {
	case Prepare:
		p.onPrepare(now, m, out)
	case Commit:
		p.onCommit(now, m, out)
	case Floor:
		p.hear(m)
		p.answer(m, Message{Kind: Floored, Gen: m.Floor, Stages: m.Stages}, out)
	case Stage:
		p.onStage(m, out)
	case Sync:
		p.onSync(now, m, out)
	case Chunk:
		p.onChunk(now, m, out)
	case Fill:
		p.onFill(now, m, out)
	case Answer:
		p.onAnswer(now, m, out)
	default:
		p.stepLead(now, m, out)
	}
}

// stepLead takes a message that only a primary understands.
func (p *Partition) stepLead(now int64, m *Message, out *Effects) {
	from := p.peer(m)
	switch m.Kind {
	case Sealed:
		p.onSealed(now, m, from, out)
	case SyncAck:
		p.onSyncAck(now, m, from, out)
	case Need:
		p.onNeed(now, m, from, out)
	case Ack:
		p.onAck(now, m, from, out)
	case CommitAck:
		p.onCommitAck(m, from)
	case Floored:
		if m.Gen == p.floor && m.Stages == p.lead.lowest {
			p.lead.floored |= from
		}
	case StageAck:
		p.onStageAck(now, m, from, out)
	case StageRefuse:
		p.onStageRefuse(now, m, from, out)
	case Query:
		p.onQuery(now, m, out)
	case ChunkAck:
		p.onChunkAck(now, m, from, out)
	case Filled:
		p.onFilled(now, m, from, out)
	}
}

// accepts reports whether m is of this epoch and from where such a message comes.
func (p *Partition) accepts(m *Message) bool {
	if m.Epoch != p.row.Epoch && !(m.Kind == Prepare && rule.Off(rule.PrepareEpoch)) {
		return false
	}
	switch m.Kind {
	case Prepare, Commit, Floor, Stage, Sync, Chunk, Fill, Answer:
		return p.lead == nil && (m.From == p.row.Primary || rule.Off(rule.PrepareEpoch)) && p.assigned(m)
	}
	return p.lead != nil && p.peer(m) != 0
}

// assigned reports whether m is for the role this replica has.
func (p *Partition) assigned(m *Message) bool {
	if p.inSync() {
		return m.Assign == 0 && m.Kind != Chunk && m.Kind != Fill
	}
	return p.isLearner() && m.Kind != Sync && m.Kind != Answer && (m.Assign == p.row.AssignID || rule.Off(rule.AssignUnique))
}

// refuse frees the values of a message that is not taken.
func (p *Partition) refuse(m *Message) {
	for _, c := range []*Copy{&m.Version, &m.Base} {
		if c.Carried {
			p.store.Free(c.Value.Blob)
		}
	}
}

// peer returns the bit of m's sender, 0 for somebody else.
func (p *Partition) peer(m *Message) peerSet {
	if i := slices.Index(p.peers, m.From); i >= 0 {
		return 1 << i
	}
	if l := &p.lead.learner; l.id != 0 && l.id == m.From && (m.Assign == l.assign || rule.Off(rule.AssignUnique)) {
		return learnerBit
	}
	return 0
}

func (s peerSet) count() int { return bits.OnesCount32(uint32(s)) }

// syncSet is every backup in sync.
func (p *Partition) syncSet() peerSet { return 1<<len(p.peers) - 1 }

// ackSet is everybody whose acknowledgement a commit needs.
func (p *Partition) ackSet() peerSet {
	set := p.syncSet()
	if p.lead.learner.promoting && !rule.Off(rule.PromotingCounts) {
		set |= learnerBit
	}
	return set
}

// audience is everybody who is sent writes.
func (p *Partition) audience() peerSet {
	set := p.syncSet()
	if p.lead.learner.id != 0 {
		set |= learnerBit
	}
	return set
}

// each calls send for the peers in set.
func (p *Partition) each(set peerSet, send func(id ID, assign uint64, bit peerSet)) {
	for ; set != 0; set &= set - 1 {
		i := bits.TrailingZeros32(uint32(set))
		if i == maxPeers {
			send(p.lead.learner.id, p.lead.learner.assign, learnerBit)
		} else {
			send(p.peers[i], 0, 1<<i)
		}
	}
}

// answer appends m as a reply to the message in.
func (p *Partition) answer(in *Message, m Message, out *Effects) {
	m.From, m.To, m.Epoch, m.Assign = p.node.ID, in.From, in.Epoch, in.Assign
	out.Sends = append(out.Sends, m)
}

// Tick makes the partition send again what was not acknowledged, report who stays silent, and expire.
func (p *Partition) Tick(now int64, out *Effects) {
	p.tickQueries(now, out)
	p.tickRecords(now)
	if p.lead != nil {
		p.tickLead(now, out)
	} else if rule.Off(rule.ExpireAtPrimary) {
		p.expireAlone(now)
	}
}

// Do takes a request of a client. It keeps nothing of *r itself.
func (p *Partition) Do(now int64, r *Request, out *Effects) {
	reply := func(s wire.Status) {
		p.store.Free(r.Value.Blob)
		out.Replies = append(out.Replies, Reply{Token: r.Token, Status: s, Epoch: p.row.Epoch})
	}
	switch {
	case r.Kind != wire.KindGet && p.lead == nil:
		reply(wire.StatusNotOwner)
	case !p.inSync():
		reply(wire.StatusNotOwner)
	case p.lead != nil && p.lead.phase != active:
		reply(wire.StatusUnavailable)
	case !p.leased(now) && !(rule.Off(rule.LeaseOnRead) && r.Kind == wire.KindGet) && !(rule.Off(rule.LeaseOnWrite) && r.Kind != wire.KindGet):
		reply(wire.StatusNoQuorum)
	case r.Kind == wire.KindGet:
		p.read(now, r, out)
	case r.Epoch != p.row.Epoch && !rule.Off(rule.FenceOnWrite):
		reply(wire.StatusUnavailable)
	case len(p.row.Sync) < p.node.Config.MinSync:
		reply(wire.StatusDegraded)
	default:
		p.write(now, r, out)
	}
}
