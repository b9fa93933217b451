package replica_test

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control/state"
	"github.com/dramnode/dramnode/replica"
	"github.com/dramnode/dramnode/replica/memstore"
	"github.com/dramnode/dramnode/wire"
)

// A cluster is replicas 1 to n of a partition, 1 the primary, and the messages between them.
type cluster struct {
	t       *testing.T
	now     int64
	nodes   []*node // by id - 1
	wire    []flight
	replies map[uint64]replica.Reply
	asks    []replica.Ask
	token   uint64
}

type node struct {
	replica.Node
	store memstore.Store
	*replica.Partition
	out replica.Effects
}

// A flight is a message with the values that it carries.
type flight struct {
	replica.Message
	version, base int
}

var config = replica.Config{
	InlineBytes: 100, MinSync: 1, Resend: 10, Report: 100, StageTimeout: 500, DedupLife: 1000, MaxWrites: 16, MaxRecords: 16, PageItems: 2,
}

func newCluster(t *testing.T, n int) *cluster {
	c := &cluster{t: t, now: 1000, replies: map[uint64]replica.Reply{}}
	for id := range n {
		at := &node{Node: replica.Node{ID: state.Incarnation(id + 1), Config: config, Records: newRecords(), Until: func() int64 { return 1 << 60 }}}
		at.Partition = replica.New(&at.Node, &at.store)
		c.nodes = append(c.nodes, at)
	}
	c.adopt(row(1, n))
	c.settle()
	active := row(1, n)
	active.ActEpoch, active.Modified = 1, 2
	c.adopt(active)
	c.settle()
	if !c.nodes[0].Active() {
		t.Fatalf("the primary is not active; it asked %+v", c.asks)
	}
	return c
}

// newRecords has room for all.
func newRecords() *replica.Records { return &replica.Records{Limit: 1 << 40} }

// join adds a replica that has no row.
func (c *cluster) join(id replica.ID) replica.ID {
	n := &node{Node: replica.Node{ID: id, Config: config, Records: newRecords(), Until: func() int64 { return 1 << 60 }}}
	n.Partition = replica.New(&n.Node, &n.store)
	c.nodes = append(c.nodes, n)
	return id
}

func row(epoch state.Epoch, n int) *state.Row {
	r := &state.Row{Epoch: epoch, Primary: 1, EpochVersion: 1, Modified: 1}
	for id := range n {
		r.Sync = append(r.Sync, state.Incarnation(id+1))
	}
	r.ActSync = r.Sync
	return r
}

func (c *cluster) adopt(r *state.Row) {
	for _, n := range c.nodes {
		n.Adopt(c.now, r, &n.out)
		c.collect(n)
	}
}

// collect takes the effects of a step.
func (c *cluster) collect(n *node) {
	for _, m := range n.out.Sends {
		f := flight{Message: m}
		if m.Version.Carried {
			f.version = n.store.Value(m.Version.Value.Blob)
		}
		if m.Base.Carried {
			f.base = n.store.Value(m.Base.Value.Blob)
		}
		f.Key = bytes.Clone(m.Key)
		c.wire = append(c.wire, f)
	}
	for _, r := range n.out.Replies {
		if _, twice := c.replies[r.Token]; twice {
			c.t.Fatalf("request %d is answered twice", r.Token)
		}
		c.replies[r.Token] = r
	}
	c.asks = append(c.asks, n.out.Asks...)
	n.out.Reset()
	n.store.Settle()
}

// deliver hands over one message, and overwrites its key afterwards.
func (c *cluster) deliver(f flight) {
	n := c.nodes[f.To-1]
	if f.Version.Carried {
		f.Version.Value.Blob = n.store.New(f.version)
	}
	if f.Base.Carried {
		f.Base.Value.Blob = n.store.New(f.base)
	}
	n.Step(c.now, &f.Message, &n.out)
	c.collect(n)
	for i := range f.Key {
		f.Key[i] = 0xCC
	}
}

// settle delivers everything, except what lost says.
func (c *cluster) settle(lost ...func(replica.Message) bool) {
	c.t.Helper()
	for range 10_000 {
		if len(c.wire) == 0 {
			return
		}
		f := c.wire[0]
		c.wire = c.wire[1:]
		if len(lost) == 0 || !lost[0](f.Message) {
			c.deliver(f)
		}
	}
	c.t.Fatal("the replicas never come to rest")
}

func (c *cluster) tick(after int64) {
	c.now += after
	for _, n := range c.nodes {
		n.Tick(c.now, &n.out)
		c.collect(n)
	}
}

// silence passes until what silent clients left is forgotten.
func (c *cluster) silence() {
	for passed := int64(0); passed < config.DedupLife*5/4; passed += config.DedupLife / 16 {
		c.tick(config.DedupLife / 16)
	}
}

func (c *cluster) do(id int, r replica.Request) (token uint64) {
	c.token++
	r.Token, r.Epoch = c.token, c.nodes[0].Row().Epoch
	n := c.nodes[id-1]
	n.Do(c.now, &r, &n.out)
	c.collect(n)
	return r.Token
}

func (c *cluster) put(key string, value int, bytes uint32) (token uint64) {
	return c.do(1, replica.Request{Kind: wire.KindPut, Key: []byte(key), Value: replica.Value{Blob: c.nodes[0].store.New(value), Bytes: bytes}})
}

// answered checks the reply to a request.
func (c *cluster) answered(token uint64, want wire.Status) replica.Reply {
	c.t.Helper()
	r, ok := c.replies[token]
	if !ok || r.Status != want {
		c.t.Fatalf("request %d: %+v (answered %v), want %v", token, r, ok, want)
	}
	return r
}

func (c *cluster) unanswered(token uint64) {
	c.t.Helper()
	if r, ok := c.replies[token]; ok {
		c.t.Fatalf("request %d is answered: %+v", token, r)
	}
}

func kind(k replica.Kind) func(replica.Message) bool {
	return func(m replica.Message) bool { return m.Kind == k }
}

func TestWriteIsAnsweredWhenAllHaveIt(t *testing.T) {
	c := newCluster(t, 3)
	put := c.put("k", 7, 1)
	c.settle(func(m replica.Message) bool { return m.Kind == replica.Ack && m.From == 3 })
	c.unanswered(put)
	c.tick(config.Resend)
	c.settle()
	gen := c.answered(put, wire.StatusOK).Gen
	for id := 1; id <= 3; id++ {
		r := c.answered(c.do(id, replica.Request{Kind: wire.KindGet, Key: []byte("k")}), wire.StatusOK)
		if r.Gen != gen || c.nodes[id-1].store.Value(r.Value.Blob) != 7 || !r.Observed {
			t.Errorf("replica %d: %+v, want generation %x of value 7, observed", id, r, gen)
		}
	}
}

// TestLossAndDoubtHideNothing: where writes were lost, or may have been, a missing key is not plainly missing until somebody
// has accepted that, whichever of the two it was.
func TestLossAndDoubtHideNothing(t *testing.T) {
	for _, c := range []struct {
		losses, doubts, accepted uint32
		want                     wire.Status
	}{
		{0, 0, 0, wire.StatusNotFound},
		{1, 0, 0, wire.StatusPartitionLost},
		{0, 1, 0, wire.StatusPartitionLost},
		{0, 1, 1, wire.StatusNotFound},
		{1, 1, 1, wire.StatusPartitionLost},
		{2, 1, 2, wire.StatusPartitionLost}, // a loss after a loss and a doubt were accepted
		{2, 1, 3, wire.StatusNotFound},
	} {
		k := newCluster(t, 2)
		k.put("there", 1, 1)
		k.settle()
		r := row(1, 2)
		r.ActEpoch, r.Modified = 1, 3
		r.LossCount, r.Doubts, r.LossAccepted = c.losses, c.doubts, c.accepted
		k.adopt(r)
		for id := 1; id <= 2; id++ {
			k.answered(k.do(id, replica.Request{Kind: wire.KindGet, Key: []byte("missing")}), c.want)
			k.answered(k.do(id, replica.Request{Kind: wire.KindGet, Key: []byte("there")}), wire.StatusOK)
		}
	}
}

func TestDirtyKeyAtBackup(t *testing.T) {
	c := newCluster(t, 3)
	old := c.put("k", 1, 1)
	c.settle()
	c.put("k", 2, 1)
	c.settle(kind(replica.Ack)) // pending everywhere
	get := c.do(2, replica.Request{Kind: wire.KindGet, Key: []byte("k")})
	c.unanswered(get)
	c.settle()
	if r := c.answered(get, wire.StatusOK); r.Gen != c.replies[old].Gen {
		t.Errorf("a backup reads generation %x while %x is committed", r.Gen, c.replies[old].Gen)
	}
}

// TestLargeValueDoesNotTakeTheKey: while a value is on its way to the backups, others write its key.
func TestLargeValueDoesNotTakeTheKey(t *testing.T) {
	c := newCluster(t, 3)
	large := c.put("k", 1, config.InlineBytes+1)
	stages := c.wire
	c.wire = nil
	for _, f := range stages {
		if f.Kind != replica.Stage || !f.Version.Carried {
			t.Fatalf("a large value begins with %+v", f.Message)
		}
	}
	small := c.put("k", 2, 1)
	c.settle()
	c.answered(small, wire.StatusOK)
	c.unanswered(large)
	c.wire = stages
	c.settle(func(m replica.Message) bool {
		if m.Kind == replica.Prepare && m.Version.Carried {
			t.Errorf("the value travels twice: %+v", m)
		}
		return false
	})
	if r := c.answered(large, wire.StatusOK); r.Gen <= c.replies[small].Gen {
		t.Errorf("the large value was ordered first: %x, then %x", r.Gen, c.replies[small].Gen)
	}
	c.noBlobsLost()
}

// noBlobsLost: no replica holds a blob that no version has.
func (c *cluster) noBlobsLost() {
	c.t.Helper()
	c.tick(config.Resend)
	c.settle()
	for _, n := range c.nodes {
		if n.store.Blobs() != n.store.Used() || n.store.Tombstones() > 0 {
			c.t.Errorf("replica %d holds %d blobs for %d versions, and %d tombstones", n.ID, n.store.Blobs(), n.store.Used(), n.store.Tombstones())
		}
	}
}

func TestStageRefusedIsNoMemory(t *testing.T) {
	c := newCluster(t, 3)
	put := c.put("k", 1, config.InlineBytes+1)
	for i := range c.wire {
		c.wire[i].Version.Carried = c.wire[i].To != 2
	}
	c.settle()
	c.answered(put, wire.StatusNoMemory)
	c.noBlobsLost()
}

// TestFullBackupRefusesValues: what needs room is refused before it is ordered, what makes room is not, a retry still learns what became
// of its first attempt, and who was full is asked again.
func TestFullBackupRefusesValues(t *testing.T) {
	c := newCluster(t, 3)
	full := map[replica.ID]bool{}
	c.nodes[0].Full = func(id replica.ID) bool { return full[id] }
	put := func(key string, counter uint64, bytes uint32) uint64 {
		return c.do(1, replica.Request{
			Kind: wire.KindPut, Key: []byte(key), Origin: replica.Origin{Client: 5, Counter: counter, FirstUnacked: 1},
			Value: replica.Value{Blob: c.nodes[0].store.New(1), Bytes: bytes},
		})
	}
	done := put("k", 1, 1)
	c.settle()
	c.answered(done, wire.StatusOK)
	for _, id := range []replica.ID{1, 3} {
		full = map[replica.ID]bool{id: true}
		c.tick(config.Resend)
		c.settle()
		c.answered(put("new", 2, 1), wire.StatusNoMemory)
		c.answered(put("new", 2, config.InlineBytes+1), wire.StatusNoMemory)
		c.answered(put("k", 1, 1), wire.StatusOK)
		asked := 0
		c.tick(config.Resend)
		c.settle(func(m replica.Message) bool {
			if m.Kind == replica.Floored && m.From == id {
				asked++
			}
			return false
		})
		if want := int(id) / 3; asked != want { // not itself
			t.Errorf("replica %d was asked %d times how full it is, want %d", id, asked, want)
		}
	}
	del := c.do(1, replica.Request{Kind: wire.KindDelete, Key: []byte("k")})
	c.settle()
	c.answered(del, wire.StatusOK)
	full = nil
	again := put("new", 2, 1)
	c.settle()
	c.answered(again, wire.StatusOK)
	c.noBlobsLost()
}

func TestDeleteLeavesNothing(t *testing.T) {
	c := newCluster(t, 3)
	c.put("k", 1, 1)
	c.settle()
	del := c.do(1, replica.Request{Kind: wire.KindDelete, Key: []byte("k")})
	c.settle()
	c.answered(del, wire.StatusOK)
	c.noBlobsLost()
	c.answered(c.do(2, replica.Request{Kind: wire.KindGet, Key: []byte("k")}), wire.StatusNotFound)
}

// TestExpiredIsMissingForAll: nobody is told that an entry has expired before its delete is everywhere.
func TestExpiredIsMissingForAll(t *testing.T) {
	c := newCluster(t, 3)
	c.do(1, replica.Request{Kind: wire.KindPut, Key: []byte("k"), TTL: 50, Value: replica.Value{Blob: c.nodes[0].store.New(1), Bytes: 1}})
	c.settle()
	c.now += 60
	get := c.do(1, replica.Request{Kind: wire.KindGet, Key: []byte("k")})
	c.settle(kind(replica.Ack))
	c.unanswered(get)
	c.tick(config.Resend)
	c.settle()
	c.answered(get, wire.StatusNotFound)
	c.noBlobsLost()
}

func TestMessagesCarryTheRemainingTTL(t *testing.T) {
	c := newCluster(t, 2)
	c.do(1, replica.Request{Kind: wire.KindPut, Key: []byte("k"), TTL: 100, Value: replica.Value{Blob: c.nodes[0].store.New(1), Bytes: 1}})
	c.wire = nil
	c.tick(30)
	if len(c.wire) != 1 || c.wire[0].Version.TTL != 70 {
		t.Fatalf("sent again after 30 of 100: %+v", c.wire)
	}
}

func TestRetryIsAnsweredFromMemory(t *testing.T) {
	c := newCluster(t, 3)
	request := func() replica.Request {
		return replica.Request{
			Kind: wire.KindPut, Key: []byte("k"), IfMatch: true, Origin: replica.Origin{Client: 5, Counter: 9, FirstUnacked: 9},
			Value: replica.Value{Blob: c.nodes[0].store.New(1), Bytes: 1},
		}
	}
	first := c.do(1, request())
	retry := c.do(1, request()) // takes the place of the first
	c.answered(first, wire.StatusUnknownOutcome)
	c.settle()
	late := c.do(1, request())
	if a, b := c.answered(retry, wire.StatusOK), c.answered(late, wire.StatusOK); a.Gen != b.Gen {
		t.Errorf("executed twice: %x and %x", a.Gen, b.Gen)
	}
	other := request()
	other.Origin = replica.Origin{Client: 5, Counter: 10, FirstUnacked: 10}
	c.answered(c.do(1, other), wire.StatusGenerationMismatch)
	c.answered(c.do(1, request()), wire.StatusUnknownOutcome) // 9 is acknowledged: whether it was executed is forgotten
	c.noBlobsLost()
}

func TestDeleteRange(t *testing.T) {
	c := newCluster(t, 3)
	for _, key := range []string{"a", "b", "c", "d"} {
		c.put(key, 1, 1)
	}
	c.settle()
	r := replica.Request{Kind: wire.KindDeleteRange, Key: []byte("b"), End: []byte("d"), Origin: replica.Origin{Client: 5, Counter: 1, FirstUnacked: 1}}
	first := c.do(1, r)
	c.settle()
	if got := c.answered(first, wire.StatusOK); got.Count != 2 {
		t.Errorf("deleted %d entries, want b and c", got.Count)
	}
	c.put("b", 2, 1)
	c.settle()
	again := c.do(1, r) // a retry deletes nothing newer than the first attempt
	c.settle()
	if got := c.answered(again, wire.StatusOK); got.Count != 0 {
		t.Errorf("the retry deleted %d entries that were written after the first attempt", got.Count)
	}
	for key, want := range map[string]wire.Status{"a": wire.StatusOK, "b": wire.StatusOK, "c": wire.StatusNotFound, "d": wire.StatusOK} {
		c.answered(c.do(3, replica.Request{Kind: wire.KindGet, Key: []byte(key)}), want)
	}
	c.noBlobsLost()
}

// TestRecordsDoNotAgeInTheirSleep: a copy of a request that waited while the process stood still is recognised, also where it stood
// still right after the first write that it remembers (seed 919853).
func TestRecordsDoNotAgeInTheirSleep(t *testing.T) {
	for _, awake := range []int64{1, 0} {
		c := newCluster(t, 3)
		r := replica.Request{Kind: wire.KindDelete, Key: []byte("k"), Origin: replica.Origin{Client: 5, Counter: 1, FirstUnacked: 1}}
		c.put("k", 1, 1)
		c.settle()
		first := c.do(1, r)
		c.settle()
		was := c.answered(first, wire.StatusOK)
		c.put("k", 2, 1)
		if awake > 0 {
			c.tick(awake)
		}
		c.settle()
		c.tick(10 * config.DedupLife)
		again := c.do(1, r)
		c.settle()
		if got := c.answered(again, wire.StatusOK); got.Gen != was.Gen {
			t.Errorf("awake for %d: executed again, as %x, after %x", awake, got.Gen, was.Gen)
		}
		c.answered(c.do(1, replica.Request{Kind: wire.KindGet, Key: []byte("k")}), wire.StatusOK)
		c.silence()
		if n := c.nodes[0].RecordBytes(); n != 0 {
			t.Errorf("%d bytes for clients that are silent", n)
		}
	}
}

// TestDeleteRangeTakesWhatIsPending: a version below the bound must not be left for a late copy of the request.
func TestDeleteRangeTakesWhatIsPending(t *testing.T) {
	c := newCluster(t, 3)
	put := c.put("b", 1, 1)
	c.settle(kind(replica.Ack)) // pending, on a key that has no entry
	r := replica.Request{Kind: wire.KindDeleteRange, Key: []byte("a"), End: []byte("d"), Origin: replica.Origin{Client: 5, Counter: 1, FirstUnacked: 1}}
	first := c.do(1, r)
	c.tick(config.Resend)
	c.settle()
	c.answered(put, wire.StatusOK)
	if got := c.answered(first, wire.StatusOK); got.Count != 1 {
		t.Errorf("deleted %d entries, want the one that was pending", got.Count)
	}
	again := c.do(1, r)
	c.settle()
	if got := c.answered(again, wire.StatusOK); got.Count != 0 {
		t.Errorf("the retry deleted %d entries that the first attempt had left", got.Count)
	}
	c.noBlobsLost()
}

func TestFailoverRollsForward(t *testing.T) {
	c := newCluster(t, 3)
	put := c.put("k", 1, 1)
	c.settle(kind(replica.Ack)) // pending everywhere, answered nowhere
	next := row(2, 3)
	next.Primary, next.Sync, next.ActSync, next.ActEpoch, next.Modified = 2, next.Sync[1:], next.Sync, 1, 3
	c.adopt(next)
	c.answered(put, wire.StatusUnknownOutcome)
	c.settle()
	c.answered(c.do(2, replica.Request{Kind: wire.KindGet, Key: []byte("k")}), wire.StatusUnavailable)
	done := *next
	done.ActEpoch, done.ActSync, done.Modified = 2, done.Sync, 4
	c.adopt(&done)
	c.settle()
	c.answered(c.do(3, replica.Request{Kind: wire.KindGet, Key: []byte("k")}), wire.StatusOK)
	if c.nodes[0].Remove(); c.nodes[0].store.Used() != 0 {
		t.Error("a replica that was left out may forget its entries after the activation")
	}
}

func TestLearnerIsPromoted(t *testing.T) {
	c := newCluster(t, 2)
	for _, key := range []string{"a", "b", "c", "d", "e"} {
		c.put(key, 1, 1)
	}
	c.settle()
	c.join(3)
	third := c.nodes[2]
	_ = third.store.Apply([]byte("cc"), replica.Version{Gen: 1, Value: replica.Value{Blob: third.store.New(9)}}) // deleted while it was away
	third.store.Settle()
	r := row(1, 2)
	r.ActEpoch, r.Learner, r.AssignID, r.Modified = 1, 3, 3, 3
	c.asks = nil
	c.adopt(r)
	c.put("b", 2, 1) // written while the scan goes on
	c.settle()
	want := replica.Ask{Kind: replica.AskPromote, Epoch: 1, Peer: 3, Assign: 3}
	if len(c.asks) != 1 || c.asks[0] != want {
		t.Fatalf("asks %+v, want %+v", c.asks, want)
	}
	put := c.put("f", 3, 1)
	c.settle(func(m replica.Message) bool { return m.Kind == replica.Ack && m.From == 3 })
	c.unanswered(put) // the learner counts already
	primary, learner := &c.nodes[0].store, &third.store
	var keys []string
	learner.Scan(0, 100, func(key []byte, v replica.Version, pending replica.Pending) {
		keys = append(keys, string(key))
		own, ownPending := primary.Get(key)
		if own.Gen != v.Gen || ownPending.Gen != pending.Gen {
			t.Errorf("%s: the learner has %+v and %+v, the primary %+v and %+v", key, v, pending, own, ownPending)
		}
	})
	if len(keys) != 5 { // f is pending
		t.Errorf("the learner has %q", keys)
	}
}

// TestOvertakenPrepareIsRemembered: what a primary without backups has executed a learner gets in any order, and remembers all of it.
func TestOvertakenPrepareIsRemembered(t *testing.T) {
	c := newCluster(t, 1)
	c.join(2)
	learns := row(1, 1)
	learns.ActEpoch, learns.Learner, learns.AssignID, learns.Modified = 1, 2, 3, 3
	c.adopt(learns)
	learner := c.nodes[1]
	for _, counter := range []uint64{10, 9} {
		m := replica.Message{
			Kind: replica.Prepare, From: 1, To: 2, Epoch: 1, Assign: 3, Key: []byte("k"), Gen: 1<<32 + dramnode.Generation(counter),
			Version: replica.Copy{Deleted: true, Origin: replica.Origin{Client: 5, Counter: counter, FirstUnacked: 9}},
		}
		learner.Step(c.now, &m, &learner.out)
		c.collect(learner)
	}
	c.wire = nil
	alone := &state.Row{Epoch: 2, Primary: 2, Sync: []replica.ID{2}, ActEpoch: 2, ActSync: []replica.ID{2}, EpochVersion: 4, Modified: 4}
	c.adopt(alone)
	c.settle()
	again := c.do(2, replica.Request{Kind: wire.KindDelete, Key: []byte("k"), Origin: replica.Origin{Client: 5, Counter: 9, FirstUnacked: 9}})
	if r := c.answered(again, wire.StatusOK); r.Gen != 1<<32+9 {
		t.Errorf("executed again, as %x", r.Gen)
	}
}

// TestIdlePartitionIsSmall: a node has one for each of a thousand partitions, most of them idle.
func TestIdlePartitionIsSmall(t *testing.T) {
	if size := reflect.TypeFor[replica.Partition]().Size(); size > 256 {
		t.Errorf("a partition has %d bytes, want at most 256", size)
	}
	n, r := &replica.Node{ID: 2, Config: config, Records: newRecords()}, row(1, 3)
	var out replica.Effects
	if allocs := testing.AllocsPerRun(100, func() {
		p := replica.New(n, nil)
		p.Adopt(1, r, &out)
	}); allocs > 3 {
		t.Errorf("an idle partition takes %v allocations", allocs)
	}
}

func TestGetDoesNotAllocate(t *testing.T) {
	c := newCluster(t, 3)
	c.put("k", 1, 1)
	c.settle()
	n, key := c.nodes[1], []byte("k")
	if allocs := testing.AllocsPerRun(100, func() {
		n.Do(c.now, &replica.Request{Kind: wire.KindGet, Key: key}, &n.out)
		n.out.Reset()
	}); allocs != 0 {
		t.Errorf("a get at a backup allocates %v times", allocs)
	}
}
