package replica_test

import (
	"runtime"
	"testing"

	"pgregory.net/rapid"

	"github.com/dramnode/dramnode/internal/invariant"
	"github.com/dramnode/dramnode/replica"
	"github.com/dramnode/dramnode/wire"
)

// oneRecord is what the first record of a client takes, oneAck of it what is left when it is done with all.
const (
	oneRecord = 168
	oneAck    = 56
)

// limit gives each replica of c room for so many clients with one record each.
func (c *cluster) limit(clients int64) {
	for _, n := range c.nodes {
		n.Records = &replica.Records{Limit: clients * oneRecord}
		n.Crowded = func(id replica.ID) bool { return c.nodes[id-1].Records.Full() }
	}
}

// write puts a value in a client's name and lets all messages arrive.
func (c *cluster) write(client, counter, firstUnacked uint64) replica.Reply {
	c.t.Helper()
	token := c.do(1, replica.Request{
		Kind: wire.KindPut, Key: []byte("k"), Origin: replica.Origin{Client: client, Counter: counter, FirstUnacked: firstUnacked},
		Value: replica.Value{Blob: c.nodes[0].store.New(1), Bytes: 1},
	})
	c.settle()
	r, ok := c.replies[token]
	if !ok {
		c.t.Fatalf("write %d of client %d is not answered", counter, client)
	}
	return r
}

func (c *cluster) refused(r replica.Reply) {
	c.t.Helper()
	if r.Status != wire.StatusBusy || !r.NoRecord {
		c.t.Errorf("reply %+v, want a refusal for want of room for the record", r)
	}
}

// TestFullRecordsRefuseNewWrites: what is remembered is still answered, and who stays within its room goes on.
func TestFullRecordsRefuseNewWrites(t *testing.T) {
	c := newCluster(t, 1)
	c.limit(2)
	records := c.nodes[0].Records
	first := c.write(1, 1, 1)
	c.write(2, 1, 1)
	if got := records.Used(); got != 2*oneRecord {
		t.Errorf("two clients with a record each take %d bytes, want %d", got, 2*oneRecord)
	}
	c.refused(c.write(3, 1, 1)) // a third client
	c.refused(c.write(1, 2, 1)) // a second record
	if records.Refused() != 2 || records.Used() > records.Limit {
		t.Errorf("%d refusals, %d of %d bytes", records.Refused(), records.Used(), records.Limit)
	}
	if again := c.write(1, 1, 1); again.Status != wire.StatusOK || again.Gen != first.Gen {
		t.Errorf("a retry is answered with %+v, the first attempt was with %+v", again, first)
	}
	if r := c.write(1, 2, 2); r.Status != wire.StatusOK { // the first is acknowledged, so its room is free
		t.Errorf("a client that stays within its room: %+v", r)
	}
	if c.write(0, 0, 0).Status != wire.StatusOK {
		t.Error("a write that nobody retries is refused")
	}
}

// TestRoomForRecordsReturns when clients are silent, when they stop to use it, and with the entries.
func TestRoomForRecordsReturns(t *testing.T) {
	c := newCluster(t, 1)
	c.limit(3)
	used := c.nodes[0].Records.Used
	counter := uint64(1)
	for c.write(1, counter, 1).Status == wire.StatusOK {
		counter++
	}
	if counter < 10 {
		t.Errorf("room for only %d records", counter)
	}
	c.refused(c.write(1, counter+1, 1))
	c.refused(c.write(2, 1, 1))
	c.tick(config.DedupLife / 2)
	if r := c.write(1, counter+2, counter+2); r.Status != wire.StatusOK {
		t.Errorf("the first write of which nothing before is under way: %+v", r)
	}
	c.tick(config.DedupLife / 4)
	if used() > 2*oneRecord {
		t.Errorf("one client with one record has %d bytes", used())
	}
	if r := c.write(2, 1, 1); r.Status != wire.StatusOK {
		t.Errorf("another client, once there is room: %+v", r)
	}
	c.silence()
	if used() != 0 {
		t.Errorf("%d bytes for clients that are silent", used())
	}
	c.write(3, 1, 1)
	lost := row(2, 1)
	lost.LossCount = 1
	c.adopt(lost)
	if used() != oneAck {
		t.Errorf("%d bytes for entries that are lost, want %d for their client", used(), oneAck)
	}
}

// TestClientsThatGo: clients that write in every partition, once each, and go, leave as much as one record each. So others find room
// long before their records are too old to be asked for; and a late copy of a write that its client is done with is not executed.
func TestClientsThatGo(t *testing.T) {
	const partitions, clients, room = 20, 30, 40
	shared := &replica.Records{Limit: room * oneRecord}
	var all []*cluster
	for range partitions {
		c := newCluster(t, 1)
		c.nodes[0].Records = shared
		all = append(all, c)
	}
	tick := func(by int64) {
		for _, c := range all {
			c.tick(by)
		}
	}
	for client := range uint64(clients) {
		for i, c := range all {
			if r := c.write(client+1, uint64(i)+1, uint64(i)+1); r.Status != wire.StatusOK {
				t.Fatalf("client %d, partition %d: %v", client, i, r.Status)
			}
			tick(1)
		}
	}
	tick(config.DedupLife / 4)
	if used, want := shared.Used(), int64(clients*oneRecord); used > want || shared.Refused() > 0 {
		t.Errorf("%d bytes are left of %d clients, want at most %d; %d refusals", used, clients, want, shared.Refused())
	}
	before, _ := all[0].nodes[0].store.Get([]byte("k"))
	for _, pause := range []int64{0, 10 * config.DedupLife} {
		tick(pause)
		if r := all[0].write(3, 1, 1); r.Status != wire.StatusUnknownOutcome {
			t.Errorf("after a pause of %d, a late copy of a write that is done with is answered with %v", pause, r.Status)
		}
	}
	if after, _ := all[0].nodes[0].store.Get([]byte("k")); after.Gen != before.Gen {
		t.Errorf("it made version %x, after %x", after.Gen, before.Gen)
	}
	for range 20 {
		tick(config.DedupLife / 16)
	}
	if shared.Used() != 0 {
		t.Errorf("%d bytes for clients that are silent", shared.Used())
	}
}

// TestCrowdedBackup: a backup remembers what was ordered, full or not, and new writes are refused until it has room again.
func TestCrowdedBackup(t *testing.T) {
	c := newCluster(t, 3)
	c.limit(1 << 20)
	first := c.write(1, 1, 1)
	backup := c.nodes[2].Records
	backup.Limit = oneRecord
	c.refused(c.write(2, 1, 1))
	if again := c.write(1, 1, 1); again.Gen != first.Gen {
		t.Errorf("a retry is answered with %+v, the first attempt was with %+v", again, first)
	}
	asked := 0
	c.tick(config.Resend)
	c.settle(func(m replica.Message) bool {
		if m.Kind == replica.Floored && m.From == 3 {
			asked++
		}
		return false
	})
	if asked == 0 {
		t.Error("who has no room was not asked again")
	}
	put := c.do(1, replica.Request{
		Kind: wire.KindPut, Key: []byte("other"), Origin: replica.Origin{Client: 1, Counter: 2, FirstUnacked: 2},
		Value: replica.Value{Blob: c.nodes[0].store.New(1), Bytes: 1},
	})
	backup.Limit = 0 // after the order
	c.settle()
	c.answered(put, wire.StatusOK)
	if backup.Used() == 0 {
		t.Error("the backup forgot what was ordered")
	}
	next := func(counter uint64) uint64 {
		return c.do(1, replica.Request{Kind: wire.KindTouch, Key: []byte("k"), Origin: replica.Origin{Client: 1, Counter: counter, FirstUnacked: counter}})
	}
	third := next(3)
	c.settle(kind(replica.CommitAck)) // the client goes on before everything is known to be done
	c.answered(third, wire.StatusOK)
	fourth := next(4)
	c.settle()
	c.answered(fourth, wire.StatusOK)
	backup.Limit = 1 << 20
	if r := c.write(2, 1, 1); r.Status != wire.StatusOK {
		t.Errorf("once there is room: %+v", r)
	}
}

// TestFullLearnerTakesNoRecords, so it is not promoted before it has room.
func TestFullLearnerTakesNoRecords(t *testing.T) {
	c := newCluster(t, 2)
	c.write(1, 1, 1)
	learner := c.join(3)
	c.nodes[2].Records = &replica.Records{}
	r := row(1, 2)
	r.ActEpoch, r.Learner, r.AssignID, r.Modified = 1, learner, 3, 3
	c.adopt(r)
	promotion := func() bool {
		c.asks = nil
		c.tick(config.Report)
		c.settle()
		for _, a := range c.asks {
			if a.Kind == replica.AskPromote {
				return true
			}
		}
		return false
	}
	if c.settle(); promotion() || c.nodes[2].Records.Used() > 0 {
		t.Errorf("a learner without room for records is to be promoted, with %d bytes of them", c.nodes[2].Records.Used())
	}
	c.nodes[2].Records.Limit = 1 << 20
	if !promotion() {
		t.Error("a learner with room for records is not promoted")
	}
}

// TestRecordsStayWithinTheirLimit: whatever clients do, the account is what is remembered, and within its limit where nobody
// else orders; each write is executed once; and what was refused was not.
func TestRecordsStayWithinTheirLimit(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		copies := rapid.SampledFrom([]int{1, 3}).Draw(rt, "copies")
		c := newCluster(t, copies)
		c.limit(rapid.Int64Range(0, 6).Draw(rt, "room"))
		type id struct{ client, counter uint64 }
		executed, last := map[id]replica.Reply{}, map[uint64]uint64{}
		epoch, newest := c.nodes[0].Row().Epoch, replica.Reply{}
		write := func(rt *rapid.T) {
			who := id{client: rapid.Uint64Range(1, 5).Draw(rt, "client")}
			who.counter = last[who.client] + 1
			if old := rapid.Uint64Range(0, 3).Draw(rt, "retry of"); old < who.counter {
				who.counter -= old
			}
			last[who.client] = max(last[who.client], who.counter)
			r := c.write(who.client, who.counter, rapid.Uint64Range(1, who.counter).Draw(rt, "first unacked"))
			before, was := executed[who]
			switch {
			case r.Status == wire.StatusOK && was && r.Gen != before.Gen:
				rt.Fatalf("%+v is executed twice, as %x and %x", who, before.Gen, r.Gen)
			case r.Status == wire.StatusOK && !was:
				executed[who], newest = r, r
			case r.Status == wire.StatusBusy && was:
				rt.Fatalf("the retry of %+v is refused, not answered", who)
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"write": write,
			"again": write, // mostly
			"time": func(rt *rapid.T) {
				c.tick(rapid.Int64Range(1, config.DedupLife/4).Draw(rt, "passes"))
				c.settle()
			},
			"silence": func(*rapid.T) {
				clear(executed) // no copy of a request lives as long
				c.silence()
				c.settle()
			},
			"epoch": func(*rapid.T) {
				epoch++
				r := row(epoch, copies)
				c.adopt(r)
				c.settle()
				active := *r
				active.ActEpoch, active.Modified = epoch, 2
				c.adopt(&active)
				c.settle()
			},
			"": func(rt *rapid.T) {
				for _, n := range c.nodes {
					if used, want := n.Records.Used(), n.RecordBytes()+n.Records.AckBytes(); used != want || copies == 1 && used > n.Records.Limit {
						rt.Fatalf("replica %d: %d bytes on the account, %d remembered, limit %d", n.ID, used, want, n.Records.Limit)
					}
				}
				committed, _ := c.nodes[0].store.Get([]byte("k"))
				if committed.Gen != newest.Gen {
					rt.Fatalf("the entry is version %x, the last write that was answered made %x", committed.Gen, newest.Gen)
				}
			},
		})
	})
}

// TestRecordsAreCountedInFull holds the account against the heap, for many clients with few records and the other way round.
func TestRecordsAreCountedInFull(t *testing.T) {
	if invariant.Enabled {
		t.Skip("the race detector makes everything larger")
	}
	for _, shape := range []struct{ clients, records uint64 }{{50_000, 1}, {10_000, 5}, {20, 3000}} {
		c := newCluster(t, 1)
		c.limit(1 << 20)
		n := c.nodes[0]
		n.Config.MaxRecords = 1 << 20
		before := heap()
		for client := range shape.clients {
			for counter := range shape.records {
				n.Do(c.now, &replica.Request{
					Kind: wire.KindDelete, Key: []byte("k"), Epoch: 1, Origin: replica.Origin{Client: client*0x9E3779B97F4A7C15 + 1, Counter: counter + 1, FirstUnacked: 1},
				}, &n.out)
				n.out.Reset()
			}
		}
		took, counted := heap()-before, n.Records.Used()
		t.Logf("%d clients with %d records: %d bytes of heap, %d counted, %d for each record", shape.clients, shape.records, took, counted, took/int64(shape.clients*shape.records))
		if counted < took*9/10 || counted > took*3/2 {
			t.Errorf("%d clients with %d records take %d bytes, counted are %d", shape.clients, shape.records, took, counted)
		}
		runtime.KeepAlive(c)
	}
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestRoomIsTakenBeforeTheWrite: however many writes are under way when the account becomes full, all find room.
func TestRoomIsTakenBeforeTheWrite(t *testing.T) {
	c := newCluster(t, 3)
	c.limit(2)
	c.nodes[0].Crowded = nil
	records := c.nodes[0].Records
	var tokens []uint64
	for i := range config.MaxWrites {
		tokens = append(tokens, c.do(1, replica.Request{
			Kind: wire.KindDelete, IfMatch: true, IfGen: 7, Key: []byte{byte(i)}, Origin: replica.Origin{Client: uint64(i%4) + 1, Counter: uint64(i), FirstUnacked: 1},
		}))
		tokens = append(tokens, c.do(1, replica.Request{
			Kind: wire.KindPut, Key: []byte{byte(i)}, Origin: replica.Origin{Client: uint64(i%4) + 1, Counter: uint64(i + 100), FirstUnacked: 1},
			Value: replica.Value{Blob: c.nodes[0].store.New(1), Bytes: 1},
		}))
	}
	promised := records.Used()
	c.settle()
	done := 0
	for _, token := range tokens {
		if r := c.replies[token]; r.Status == wire.StatusBusy {
			c.refused(r)
		} else {
			done++
		}
	}
	if records.Used() != promised || promised > records.Limit || done < 2 || done == len(tokens) {
		t.Errorf("%d of %d writes are done: %d bytes of %d, %d before their commits", done, len(tokens), records.Used(), records.Limit, promised)
	}
}
