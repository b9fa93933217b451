package storage

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/dramnode/dramnode"
)

// Eviction says what happens to a write for which there is no room.
type Eviction uint8

const (
	EvictNone   Eviction = iota // it fails with dramnode.ErrNoMemory
	EvictS3FIFO                 // other entries go first
)

var evictionNames = [...]string{EvictNone: "none", EvictS3FIFO: "s3fifo"}

func (e Eviction) String() string {
	if int(e) < len(evictionNames) {
		return evictionNames[e]
	}
	return fmt.Sprintf("Eviction(%d)", uint8(e))
}

// ParseEviction is the inverse of String.
func ParseEviction(text string) (Eviction, error) {
	for e, name := range evictionNames {
		if name == text {
			return Eviction(e), nil
		}
	}
	return 0, fmt.Errorf("storage: %w: eviction %q, want none or s3fifo", dramnode.ErrInvalid, text)
}

const (
	evictTries = 1 << 20 // rounds of eviction for one write, at most
	smallShare = 10      // the small queue may have a tenth of the bytes

	ghostBytes     = 8   // Go heap of a ghost
	ghostPerBytes  = 512 // of arena: how much stands for one ghost
	ghostsMin      = 64
	ghostsMax      = 1 << 16
	queueSmall     = 1
	queueMain      = 2
	evictPerLocked = stepRecords
)

// queues are the FIFO queues of S3-FIFO (Yang et al., SOSP'23) for the entries of one shard: new entries enter
// small, those that are read more than once move on to main, the others are evicted and leave a ghost; who comes back
// while its ghost is known enters main at once. In main, who was read goes round again, with one hit less.
//
// The links are part of the records. The zero value is for stores that do not evict: it keeps nothing.
type queues struct {
	mem         *memory
	small, main fifo
	ghosts      []ghost // by hash; a ghost that is overwritten is forgotten early
	left        uint32  // ghosts ever made

	evictions    uint64
	evictedBytes uint64
}

// A fifo is entered at its head and left at its tail, or from the middle.
type fifo struct {
	head, tail handle
	count      int
	bytes      int64
}

// A ghost is a key that was evicted from small.
type ghost struct {
	print uint32 // of the key's hash
	left  uint32 // its number
}

// ghostsFor is how many ghosts a shard remembers: a power of two.
func ghostsFor(arenaBytes, shards int) int {
	n := ghostsMin
	for n < ghostsMax && n*shards*ghostPerBytes < arenaBytes {
		n *= 2
	}
	return n
}

func (q *queues) init(m *memory, ghosts int) { q.mem, q.ghosts = m, make([]ghost, ghosts) }

// links is where the links of a record begin.
func (m *memory) links(rec handle) int { return m.size(rec) - linkBytes }

func (m *memory) queue(rec handle) uint16 {
	return binary.LittleEndian.Uint16(m.arena[int(rec)+m.links(rec)+linkQueue:])
}

func (m *memory) setQueue(rec handle, queue uint16) {
	binary.LittleEndian.PutUint16(m.arena[int(rec)+m.links(rec)+linkQueue:], queue)
}

func (m *memory) hits(rec handle) uint16 {
	return binary.LittleEndian.Uint16(m.arena[int(rec)+m.links(rec)+linkHits:])
}

func (m *memory) setHits(rec handle, hits uint16) {
	binary.LittleEndian.PutUint16(m.arena[int(rec)+m.links(rec)+linkHits:], hits)
}

func (q *queues) fifo(number uint16) *fifo {
	if number == queueMain {
		return &q.main
	}
	return &q.small
}

// hit counts a read.
func (q *queues) hit(rec handle) {
	if q.mem != nil {
		q.mem.setHits(rec, min(q.mem.hits(rec)+1, hitsMax))
	}
}

// enter takes in the record of a key that had no entry.
func (q *queues) enter(rec handle, hash uint64) {
	if q.mem == nil {
		return
	}
	q.mem.setHits(rec, 0)
	g := &q.ghosts[hash%uint64(len(q.ghosts))]
	if known := g.left != 0 && g.print == uint32(hash>>32) && q.left-g.left <= uint32(len(q.ghosts)); known {
		*g = ghost{}
		q.push(rec, queueMain)
		return
	}
	q.push(rec, queueSmall)
}

// leave takes an entry's record out.
func (q *queues) leave(rec handle) {
	if q.mem != nil {
		q.take(rec)
	}
}

// replace lets rec, another version of old's key, go on at the head of old's queue, and counts a hit.
func (q *queues) replace(old, rec handle) {
	if q.mem == nil {
		return
	}
	q.mem.setHits(rec, min(q.mem.hits(old)+1, hitsMax))
	number := q.mem.queue(old)
	q.take(old)
	q.push(rec, number)
}

func (q *queues) push(rec handle, number uint16) {
	m, f := q.mem, q.fifo(number)
	m.setQueue(rec, number)
	m.setLink(rec, m.links(rec)+linkPrev, none)
	m.setLink(rec, m.links(rec)+linkNext, f.head)
	if f.head != none {
		m.setLink(f.head, m.links(f.head)+linkPrev, rec)
	} else {
		f.tail = rec
	}
	f.head = rec
	f.count++
	f.bytes += int64(m.size(rec))
}

func (q *queues) take(rec handle) {
	m, f := q.mem, q.fifo(q.mem.queue(rec))
	next, prev := m.link(rec, m.links(rec)+linkNext), m.link(rec, m.links(rec)+linkPrev)
	if prev != none {
		m.setLink(prev, m.links(prev)+linkNext, next)
	} else {
		f.head = next
	}
	if next != none {
		m.setLink(next, m.links(next)+linkPrev, prev)
	} else {
		f.tail = prev
	}
	f.count--
	f.bytes -= int64(m.size(rec))
}

// turns is how many steps find every entry that may be evicted.
func (q *queues) turns() int { return (q.small.count + q.main.count) * (hitsMax + 2) }

// step moves one entry on, or returns it to be evicted.
func (q *queues) step(mayEvict func(rec handle) bool) (victim handle) {
	from := uint16(queueMain)
	if q.main.count == 0 || q.small.bytes*smallShare >= q.small.bytes+q.main.bytes && q.small.count > 0 {
		from = queueSmall
	}
	rec := q.fifo(from).tail
	if rec == none {
		return none
	}
	hits := q.mem.hits(rec)
	switch {
	case !mayEvict(rec), from == queueSmall && hits > 1:
		q.take(rec)
		q.push(rec, queueMain)
	case from == queueMain && hits > 0:
		q.mem.setHits(rec, hits-1)
		q.take(rec)
		q.push(rec, queueMain)
	default:
		return rec
	}
	return none
}

// remember leaves a ghost of an entry that is evicted from small.
func (q *queues) remember(rec handle, hash uint64) {
	if q.mem.queue(rec) == queueSmall {
		q.left = max(q.left+1, 1)
		q.ghosts[hash%uint64(len(q.ghosts))] = ghost{uint32(hash >> 32), q.left}
	}
}

// evict takes out entries of at least so many bytes, and says whether there were any. Shards have their turns, whoever
// needs the room: so entries go about in the order in which they came, which is how slabs were filled, and whole slabs fall free.
// Leased values stay, and so do the entries of partitions that are not evictable.
func (s *Store) evict(bytes int) (freed bool) {
	if s.config.Eviction == EvictNone || s.mem.pagesFor(bytes) > s.mem.pool.count {
		return false
	}
	for i := 0; i < len(s.shards) && bytes > 0; i++ {
		from := &s.shards[int(s.evictAt.Add(1)%uint32(len(s.shards)))]
		for more := true; more && bytes > 0; {
			var n int
			n, more = s.evictSome(from, bytes)
			bytes -= n
			freed = freed || n > 0
		}
	}
	return freed
}

// mayEvictLocked reports whether nobody needs the entry of rec.
func (s *Store) mayEvictLocked(sh *shard, rec handle) bool {
	pt := &s.partitions[s.mem.partition(rec)]
	if s.mem.leased(rec) || !pt.evictable || slices.Contains(pt.pins, rec) {
		return false
	}
	if pt.staged == 0 {
		return true
	}
	key := s.mem.key(rec)
	id := s.identify(s.mem.partition(rec), key)
	return sh.staged.find(&id) == none
}

// evictSome holds the lock for stepRecords entries at most; more says that there may be another victim.
func (s *Store) evictSome(sh *shard, bytes int) (freed int, more bool) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	mayEvict := func(rec handle) bool { return s.mayEvictLocked(sh, rec) }
	turns := sh.queues.turns()
	for turn := 0; turn < min(turns, evictPerLocked) && freed < bytes; turn++ {
		rec := sh.queues.step(mayEvict)
		if rec == none {
			continue
		}
		hash := sh.index.hashOf(rec)
		freed += s.mem.size(rec)
		sh.queues.remember(rec, hash)
		sh.queues.evictions++
		sh.queues.evictedBytes += uint64(s.mem.keyBytes(rec) + s.mem.valueBytes(rec))
		s.removeLocked(sh, rec, hash)
	}
	return freed, freed > 0 && turns > evictPerLocked
}
