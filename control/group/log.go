package group

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	golog "log"
	"math/rand/v2"
	"slices"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"

	"github.com/dramnode/dramnode/control/state"
)

// The consensus group counts time in ticks.
const (
	electionTicks    = 10   // without a leader, and up to twice as many, before a voter campaigns
	heartbeatTicks   = 5    // between messages of a leader that has nothing else to say; most rounds of leases come sooner
	quietTicks       = 3    // that may pass at once, as nobody would notice
	snapshotTicks    = 20   // before a snapshot that was not acknowledged is sent again
	maxEntries       = 1024 // of the log before it is compacted
	keepEntries      = 128  // of them, for those that are a little behind
	maxMessageBytes  = 1 << 20
	maxInflight      = 64
	maxUncommitted   = 64 << 20 // bytes
	maxReadyTurns    = 1000     // of one step; a raft node settles within a few
	closeEnough      = 64       // entries behind which a learner may become a voter
	firstIndex       = 1        // of a log: its snapshot is the state it was founded with
	firstTerm        = 1
	proposalTagBytes = 16
)

// A log is this process's part in the consensus group of one era, and the state that the log leads to. It
// lives in memory: what a process forgets with its death, nobody expects of it, since its successor has
// another id.
//
// The library draws election timeouts from the system's randomness. A log never lets it use them: voters
// that do not lead only count time (TickQuiesced), and campaign when a timeout from our own seeded source
// has passed. So a seed replays exactly.
type log struct {
	id      state.Incarnation
	raw     *raft.RawNode
	storage *raft.MemoryStorage // entries; its snapshot is made when somebody needs one
	conf    *pb.ConfState
	applied uint64
	state   *state.State // of everything applied, nil before the first snapshot

	random           *rand.Rand
	elapsed, timeout int // ticks since the leader was heard or a vote was given, and how many are too many

	applying  bool   // a change of members: conf is not the one of applied
	changing  uint64 // the index up to which a change of members may be under way
	reads     []raft.ReadState
	done      map[uint64]bool // own proposals that were applied since the last look
	snapshots map[uint64]int  // ticks since a snapshot was sent
	out       []*pb.Message
}

// newLog returns a log that begins with a state and its voters, or with nothing: then the leader sends it.
func newLog(id state.Incarnation, seed uint64, first *state.State, voters []state.Incarnation) (*log, error) {
	l := &log{
		id: id, storage: raft.NewMemoryStorage(), conf: &pb.ConfState{}, random: rand.New(rand.NewPCG(seed, uint64(id))),
		done: map[uint64]bool{}, snapshots: map[uint64]int{},
	}
	if first != nil {
		if err := l.begin(first, voters); err != nil {
			return nil, err
		}
	}
	var err error
	l.raw, err = raft.NewRawNode(&raft.Config{
		ID: uint64(id), ElectionTick: electionTicks, HeartbeatTick: heartbeatTicks, Storage: memory{l.storage, l}, Applied: l.applied,
		MaxSizePerMsg: maxMessageBytes, MaxInflightMsgs: maxInflight, MaxUncommittedEntriesSize: maxUncommitted,
		CheckQuorum: true, PreVote: true, ReadOnlyOption: raft.ReadOnlySafe,
		DisableProposalForwarding: true, StepDownOnRemoval: true,
		Logger: &raft.DefaultLogger{Logger: golog.New(io.Discard, "", 0)},
	})
	l.draw()
	return l, err
}

func (l *log) begin(first *state.State, voters []state.Incarnation) error {
	l.state, l.applied = first, firstIndex
	for _, v := range voters {
		l.conf.Voters = append(l.conf.Voters, uint64(v))
	}
	snapshot := &pb.Snapshot{
		Data:     first.Append(nil),
		Metadata: &pb.SnapshotMetadata{ConfState: l.conf, Index: new(uint64(firstIndex)), Term: new(uint64(firstTerm))},
	}
	if err := l.storage.ApplySnapshot(snapshot); err != nil {
		return err
	}
	return l.storage.SetHardState(&pb.HardState{Term: new(uint64(firstTerm)), Vote: new(uint64(0)), Commit: new(uint64(firstIndex))})
}

// memory is the library's view of the log. A member takes no snapshot from before it was one, so each
// snapshot is of now.
type memory struct {
	*raft.MemoryStorage
	log *log
}

// Snapshot implements raft.Storage.
func (m memory) Snapshot() (*pb.Snapshot, error) {
	if m.log.applying {
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	if err := m.log.snapshot(); err != nil {
		return nil, err
	}
	return m.MemoryStorage.Snapshot()
}

// snapshot notes the state of now as that of everything applied.
func (l *log) snapshot() error {
	_, err := l.storage.CreateSnapshot(l.applied, l.conf, l.state.Append(nil))
	if errors.Is(err, raft.ErrSnapOutOfDate) { // there is one already
		return nil
	}
	return err
}

func (l *log) draw() { l.elapsed, l.timeout = 0, electionTicks+l.random.IntN(electionTicks) }

func (l *log) leading() bool { return l.raw.BasicStatus().RaftState == raft.StateLeader }

// established reports whether this leader has applied all that earlier ones committed.
func (l *log) established() bool {
	term, err := l.storage.Term(l.applied)
	return l.leading() && err == nil && term == l.term()
}

// leader is who leads as far as known, or 0.
func (l *log) leader() state.Incarnation { return state.Incarnation(l.raw.BasicStatus().Lead) }

func (l *log) term() uint64 { return l.raw.BasicStatus().GetTerm() }

// quiet is how many ticks may pass before something has to happen.
func (l *log) quiet() int {
	if l.leading() {
		return quietTicks
	}
	return min(quietTicks, max(1, l.timeout-l.elapsed))
}

// tick lets one tick pass.
func (l *log) tick() error {
	if l.leading() {
		l.raw.Tick()
		l.retrySnapshots()
		return l.settle()
	}
	l.raw.TickQuiesced()
	if l.elapsed++; l.elapsed >= l.timeout {
		l.draw()
		if slices.Contains(l.conf.GetVoters(), uint64(l.id)) || slices.Contains(l.conf.GetVotersOutgoing(), uint64(l.id)) {
			return l.campaign()
		}
	}
	return l.settle()
}

// campaign stands for election.
func (l *log) campaign() error {
	if err := l.raw.Campaign(); err != nil {
		return err
	}
	return l.settle()
}

// retrySnapshots: the library waits for ever for the fate of a snapshot that it sent.
func (l *log) retrySnapshots() {
	var stale []uint64
	l.raw.WithProgress(func(id uint64, _ raft.ProgressType, p tracker.Progress) {
		if p.State != tracker.StateSnapshot {
			delete(l.snapshots, id)
		} else if l.snapshots[id]++; l.snapshots[id] > snapshotTicks {
			stale = append(stale, id)
		}
	})
	for _, id := range stale {
		delete(l.snapshots, id)
		l.raw.ReportSnapshot(id, raft.SnapshotFailure)
	}
}

// step takes a message of another member.
func (l *log) step(m *pb.Message) error {
	before := l.raw.BasicStatus()
	_ = l.raw.Step(m) // only says that a message was of no use
	after := l.raw.BasicStatus()
	fromLeader := m.GetType() == pb.MsgApp || m.GetType() == pb.MsgHeartbeat || m.GetType() == pb.MsgSnap
	switch {
	case before.GetTerm() != after.GetTerm():
		l.draw()
	case fromLeader && m.GetFrom() == after.Lead, before.GetVote() != after.GetVote():
		l.elapsed = 0
	}
	return l.settle()
}

// propose appends a batch to the log of this leader, under a tag that applied returns. It reports whether
// the log took it: if not, it never will.
func (l *log) propose(tag uint64, batch []state.Command) bool {
	data := binary.LittleEndian.AppendUint64(nil, uint64(l.id))
	data = binary.LittleEndian.AppendUint64(data, tag)
	return l.raw.Propose(state.AppendBatch(data, batch)) == nil
}

// decided reports whether the proposal with this tag was applied, once.
func (l *log) decided(tag uint64) bool {
	yes := l.done[tag]
	delete(l.done, tag)
	return yes
}

// settle does everything that the library has to do: keep entries, send, apply.
func (l *log) settle() error {
	for range maxReadyTurns {
		if !l.raw.HasReady() {
			return l.compact()
		}
		if err := l.ready(); err != nil {
			return err
		}
	}
	return fmt.Errorf("group: %x does not come to rest", l.id)
}

func (l *log) ready() error {
	rd := l.raw.Ready()
	if !raft.IsEmptyHardState(rd.HardState) {
		if err := l.storage.SetHardState(rd.HardState); err != nil {
			return err
		}
	}
	if !raft.IsEmptySnap(rd.Snapshot) {
		if err := l.restore(rd.Snapshot); err != nil {
			return err
		}
	}
	if err := l.storage.Append(rd.Entries); err != nil {
		return err
	}
	l.out = append(l.out, rd.Messages...)
	l.reads = append(l.reads, rd.ReadStates...)
	for _, e := range rd.CommittedEntries {
		if err := l.apply(e); err != nil {
			return err
		}
	}
	l.raw.Advance(rd)
	return nil
}

func (l *log) restore(snapshot *pb.Snapshot) error {
	s, err := state.Parse(snapshot.GetData())
	if err != nil {
		return err
	}
	if err := l.storage.ApplySnapshot(snapshot); err != nil {
		return err
	}
	l.state, l.applied = s, snapshot.GetMetadata().GetIndex()
	l.conf = snapshot.GetMetadata().GetConfState()
	return nil
}

func (l *log) apply(e *pb.Entry) error {
	l.applied = e.GetIndex()
	switch e.GetType() {
	case pb.EntryConfChangeV2:
		var c pb.ConfChangeV2
		if err := proto.Unmarshal(e.GetData(), &c); err != nil {
			return err
		}
		l.applying = true
		l.conf = l.raw.ApplyConfChange(&c)
		l.applying = false
	case pb.EntryNormal:
		return l.applyBatch(e.GetData())
	}
	return nil
}

func (l *log) applyBatch(data []byte) error {
	if len(data) < proposalTagBytes { // a leader's first entry
		return nil
	}
	batch, err := state.ParseBatch(data[proposalTagBytes:])
	if err != nil {
		return err
	}
	l.state, _ = l.state.Apply(batch) // who was rejected decides again
	if le := binary.LittleEndian; state.Incarnation(le.Uint64(data)) == l.id {
		l.done[le.Uint64(data[8:])] = true
	}
	return nil
}

// compact replaces old entries by the state that they led to.
func (l *log) compact() error {
	first, err := l.storage.FirstIndex()
	if err != nil || l.applied < first+maxEntries {
		return err
	}
	if err := l.snapshot(); err != nil {
		return err
	}
	return l.storage.Compact(l.applied - keepEntries)
}

// ask starts a quorum round; its id comes back by confirmed.
func (l *log) ask(round uint64) {
	l.raw.ReadIndex(binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, l.term()), round))
}

// confirmed returns the latest round in which the voters confirmed that this is the leader, if everything
// that was committed by then is applied here; else 0. Rounds of earlier terms do not count.
func (l *log) confirmed() (round uint64) {
	le := binary.LittleEndian
	l.reads = slices.DeleteFunc(l.reads, func(r raft.ReadState) bool {
		if l.applied < r.Index {
			return false
		}
		if le.Uint64(r.RequestCtx) == l.term() {
			round = max(round, le.Uint64(r.RequestCtx[8:]))
		}
		return true
	})
	return round
}

// voters returns the present ones, ascending; settled is false while a change is under way, proposed or half made.
func (l *log) voters() (ids []state.Incarnation, settled bool) {
	for _, id := range l.conf.GetVoters() {
		ids = append(ids, state.Incarnation(id))
	}
	slices.Sort(ids)
	return ids, len(l.conf.GetVotersOutgoing()) == 0 && l.applied >= l.changing
}

// upToDate returns who answers this leader and is close to the end of the log.
func (l *log) upToDate() map[state.Incarnation]bool {
	last, err := l.storage.LastIndex()
	near := map[state.Incarnation]bool{}
	l.raw.WithProgress(func(id uint64, _ raft.ProgressType, p tracker.Progress) {
		if err == nil && p.Match > 0 && p.Match+closeEnough >= last && p.State == tracker.StateReplicate {
			near[state.Incarnation(id)] = true
		}
	})
	return near
}

// reconfigure proposes the change to these voters and learners, if there is any. No other is under way.
func (l *log) reconfigure(voters, learners []state.Incarnation) {
	c := &pb.ConfChangeV2{}
	change := func(typ pb.ConfChangeType, id uint64) {
		c.Changes = append(c.Changes, &pb.ConfChangeSingle{Type: typ.Enum(), NodeId: new(id)})
	}
	has := func(set []state.Incarnation, id uint64) bool { return slices.Contains(set, state.Incarnation(id)) }
	for _, id := range voters {
		if !slices.Contains(l.conf.GetVoters(), uint64(id)) {
			change(pb.ConfChangeAddNode, uint64(id))
		}
	}
	for _, id := range learners {
		if !slices.Contains(l.conf.GetLearners(), uint64(id)) {
			change(pb.ConfChangeAddLearnerNode, uint64(id))
		}
	}
	for _, id := range slices.Concat(l.conf.GetVoters(), l.conf.GetLearners()) {
		if !has(voters, id) && !has(learners, id) {
			change(pb.ConfChangeRemoveNode, id)
		}
	}
	if len(c.Changes) == 0 || l.raw.ProposeConfChange(c) != nil { // not taken: the next turn tries again
		return
	}
	if last, err := l.storage.LastIndex(); err == nil {
		l.changing = last + 1
	}
}
