package arena_test

import (
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/replica"
	"github.com/dramnode/dramnode/replica/arena"
	"github.com/dramnode/dramnode/storage"
	"github.com/dramnode/dramnode/wire"
)

// A primary is alone with its partition.
type primary struct {
	t      testing.TB
	store  arena.Store
	engine *replica.Partition
	out    replica.Effects
	last   map[string]dramnode.Generation // by key: of the last write
}

func alone() *replica.Row {
	only := []replica.ID{1}
	return &replica.Row{Epoch: 1, Primary: 1, Sync: only, ActSync: only, ActEpoch: 1, Modified: 1}
}

// cache opens a store that evicts.
func cache(t testing.TB, arenaBytes, partitions int) (*storage.Store, []*primary) {
	t.Helper()
	return open(t, storage.Config{Arena: make([]byte, arenaBytes), Partitions: partitions, MaxValueBytes: 1 << 20, Eviction: storage.EvictS3FIFO})
}

// open opens a store, and a primary alone for each partition.
func open(t testing.TB, c storage.Config) (*storage.Store, []*primary) {
	t.Helper()
	s, err := storage.New(c)
	if err != nil {
		t.Fatal(err)
	}
	n := &replica.Node{ID: 1, Config: replica.Default, Records: &replica.Records{Limit: 1 << 30}, Until: func() int64 { return 1 << 60 }}
	all := make([]*primary, c.Partitions)
	for i := range all {
		of, err := arena.Open(s, uint16(i))
		if err != nil {
			t.Fatal(err)
		}
		all[i] = &primary{t: t, store: of, engine: replica.New(n, of), last: map[string]dramnode.Generation{}}
		all[i].adopt(alone())
	}
	return s, all
}

func (p *primary) adopt(row *replica.Row) {
	p.engine.Adopt(1, row, &p.out)
	p.settle()
}

func (p *primary) settle() {
	p.out.Reset()
	p.store.Settle()
	p.store.Evictable(p.engine.Evictable())
}

func (p *primary) do(k uint32, r replica.Request) replica.Reply {
	return p.doTo(binary.LittleEndian.AppendUint32(nil, k), r)
}

// doTo has the engine execute r, and checks that generations rise.
func (p *primary) doTo(key []byte, r replica.Request) replica.Reply {
	r.Epoch, r.Key = 1, key
	p.engine.Do(1, &r, &p.out)
	if len(p.out.Replies) != 1 {
		p.t.Errorf("%d replies to one request", len(p.out.Replies))
		return replica.Reply{}
	}
	reply := p.out.Replies[0]
	p.settle()
	if r.Kind != wire.KindGet && reply.Status == wire.StatusOK && reply.Gen != dramnode.Absent {
		if last := p.last[string(key)]; reply.Gen <= last {
			p.t.Errorf("a write has generation %x, and one before it %x", reply.Gen, last)
		}
		p.last[string(key)] = reply.Gen
	}
	return reply
}

func (p *primary) put(k uint32, value []byte, change func(*replica.Request)) replica.Reply {
	r := p.lend(value)
	if change != nil {
		change(&r)
	}
	return p.do(k, r)
}

// lend makes a put of value.
func (p *primary) lend(value []byte) replica.Request {
	return replica.Request{Kind: wire.KindPut, Value: replica.Value{
		Blob: replica.Blob(p.store.Lend(value)), Bytes: uint32(len(value)), CRC: crc32.ChecksumIEEE(value),
	}}
}

// get reads into dst as nodes do, and checks the value.
func (p *primary) get(s *storage.Store, dst []byte, k uint32) bool {
	var v storage.Value
	found, _ := p.store.Read(&v, dst, binary.LittleEndian.AppendUint32(nil, k), 1)
	if found == storage.Found && crc32.ChecksumIEEE(v.Bytes) != v.CRC {
		p.t.Error("a value is torn")
	}
	s.Release(v.Lease)
	return found == storage.Found
}

// TestEvictionUnderTheEngine: a full store takes every write, keeps what is read, and accounts for everything.
func TestEvictionUnderTheEngine(t *testing.T) {
	s, all := cache(t, 4<<20, 4)
	value, dst := make([]byte, 1000), make([]byte, 1000)
	of := func(k uint32) *primary { return all[k%4] }
	const hot = 500
	for k := range uint32(hot) {
		of(k).put(k, value, nil)
		of(k).get(s, dst, k)
		of(k).get(s, dst, k)
	}
	for k := range uint32(20_000) {
		if reply := of(k).put(1000+k, value, nil); reply.Status != wire.StatusOK {
			t.Fatalf("put %d: status %d", k, reply.Status)
		}
		if !of(k).get(s, dst, 1000+k) {
			t.Fatal("an entry is gone right after its put")
		}
		of(k%hot).get(s, dst, k%hot)
	}
	kept := 0
	for k := range uint32(hot) {
		if of(k).get(s, dst, k) {
			kept++
		}
	}
	if kept < hot*95/100 {
		t.Errorf("%d of %d entries that are read survive a scan", kept, hot)
	}
	for k := uint32(1000); k < 1100; k++ { // gone: a condition meets a missing key
		if of(k).get(s, dst, k) {
			t.Fatalf("key %d was not evicted", k)
		}
		if reply := of(k).do(k, replica.Request{Kind: wire.KindTouch}); reply.Status != wire.StatusNotFound {
			t.Errorf("a touch of an evicted key: status %d", reply.Status)
		}
		if reply := of(k).put(k, value, func(r *replica.Request) { r.IfMatch = true }); reply.Status != wire.StatusOK {
			t.Errorf("a put of an evicted key unless it exists: status %d", reply.Status)
		}
	}
	if err := s.Check(); err != nil {
		t.Error(err)
	}
	st := s.Stats()
	if st.Evictions == 0 || st.UsedBytes > st.TotalBytes || st.Leases+st.Reservations+st.Tombstones > 0 {
		t.Errorf("after all that %+v", st)
	}
	for _, p := range all {
		p.store.Clear()
		p.settle()
	}
	if st := s.Stats(); st.Entries != 0 || st.RequestedBytes != 0 || st.KeyBytes+st.ValueBytes != 0 {
		t.Errorf("emptied: %+v", st)
	}
}

// TestEvictionSparesWhatOthersHold: neither a learner's primary, nor who is not alone, nor a pending version loses an entry.
func TestEvictionSparesWhatOthersHold(t *testing.T) {
	s, all := cache(t, 1<<20, 4)
	shared, pending := all[0], all[1]
	for k := range uint32(20) {
		shared.put(k, make([]byte, 100), nil)
	}
	row := alone()
	row.Learner, row.AssignID, row.Modified = 2, 7, 2
	shared.adopt(row)
	if shared.engine.Evictable() {
		t.Error("entries of a partition with a learner may be evicted")
	}
	pending.put(1, make([]byte, 100), nil)
	if err := pending.store.Prepare(binary.LittleEndian.AppendUint32(nil, 1), replica.Pending{Version: replica.Version{Gen: 1 << 40, Deleted: true}}); err != nil {
		t.Fatal(err)
	}
	for k := range uint32(5000) {
		if reply := all[2].put(k, make([]byte, 1000), nil); reply.Status != wire.StatusOK {
			t.Fatalf("put %d: status %d", k, reply.Status)
		}
	}
	dst := make([]byte, 1000)
	for k := range uint32(20) {
		if !shared.get(s, dst, k) {
			t.Errorf("entry %d of a partition with a learner is gone", k)
		}
	}
	if !pending.get(s, dst, 1) {
		t.Error("an entry with a pending version is gone")
	}
	if err := s.Check(); err != nil {
		t.Error(err)
	}
}

// TestConcurrentEvictionUnderTheEngine: each primary's writes evict entries of all, while they are read and touched.
func TestConcurrentEvictionUnderTheEngine(t *testing.T) {
	s, all := cache(t, 1<<20, 6)
	var wg sync.WaitGroup
	for n, p := range all {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(n), 1))
			dst, value := make([]byte, 500), make([]byte, 2000)
			for range 3000 {
				k := rnd.Uint32N(900)
				switch rnd.Uint32N(8) {
				case 0:
					p.do(k, replica.Request{Kind: wire.KindTouch})
				case 1:
					p.do(k, replica.Request{Kind: wire.KindDelete})
				case 2, 3:
					all[rnd.IntN(len(all))].get(s, dst, k)
				default:
					if reply := p.put(k, value[:rnd.IntN(len(value))], nil); reply.Status != wire.StatusOK {
						t.Errorf("put: status %d", reply.Status)
					}
				}
			}
		})
	}
	wg.Wait()
	if err := s.Check(); err != nil {
		t.Error(err)
	}
	if s.Stats().Evictions == 0 {
		t.Error("nothing was evicted")
	}
}
