package storage

import (
	"hash/maphash"
	"math/bits"
)

// An index finds the records of one shard by linear hashing: it has two buckets for three records; each insert that makes
// more records than that splits one bucket, each removal may join two. So no operation
// pauses for a rehash. Bucket heads lie in the arena, in segments; without memory for
// a segment the index stops growing and its chains get longer.
//
// A scan visits the buckets upwards. A split moves records only to the highest bucket, and while a scan is open none are joined, so
// a scan meets every record that is there all the time.
type index struct {
	mem      *memory
	lane     int
	seed     maphash.Seed
	segments []handle // each holds segmentHeads bucket heads
	buckets  int
	records  int
	scans    int // open ones
	promised int // inserts for which there must be a bucket
}

const (
	segmentHeads = 256
	headBytes    = 4
	segmentBytes = segmentHeads * headBytes
)

// prepare makes sure that there is a bucket to insert into.
func (x *index) prepare() error {
	if x.buckets > 0 {
		return nil
	}
	if err := x.addSegment(); err != nil {
		return err
	}
	x.buckets = 1
	return nil
}

func (x *index) addSegment() error {
	seg, err := x.mem.alloc(x.lane, segmentBytes)
	if err != nil {
		return err
	}
	clear(x.mem.bytes(seg, segmentBytes))
	x.segments = append(x.segments, seg)
	return nil
}

// bucketOf folds a hash onto the buckets: those not yet split in this round take a bit less.
func (x *index) bucketOf(hash uint64) int {
	n := bits.Len(uint(x.buckets - 1))
	b := int(hash & (1<<n - 1))
	if b >= x.buckets {
		b &= 1<<(n-1) - 1
	}
	return b
}

func (x *index) hashOf(rec handle) uint64 { return maphash.Bytes(x.seed, x.mem.key(rec)) }

func (x *index) head(bucket int) handle {
	return x.mem.link(x.segments[bucket/segmentHeads], bucket%segmentHeads*headBytes)
}

func (x *index) setHead(bucket int, rec handle) {
	x.mem.setLink(x.segments[bucket/segmentHeads], bucket%segmentHeads*headBytes, rec)
}

// first is the head of the bucket for hash; the others follow by recChain.
func (x *index) first(hash uint64) handle {
	if x.buckets == 0 {
		return none
	}
	return x.head(x.bucketOf(hash))
}

func (x *index) find(id *identity) handle {
	rec := x.first(id.hash)
	for rec != none && !x.mem.recordIs(rec, id) {
		rec = x.mem.link(rec, recChain)
	}
	return rec
}

// insert adds a record whose key the index does not have. prepare succeeded before.
func (x *index) insert(rec handle, hash uint64) {
	x.push(rec, hash)
	x.records++
	if 2*x.records > 3*x.buckets {
		x.split()
	}
}

func (x *index) push(rec handle, hash uint64) {
	b := x.bucketOf(hash)
	x.mem.setLink(rec, recChain, x.head(b))
	x.setHead(b, rec)
}

func (x *index) split() {
	if x.buckets == len(x.segments)*segmentHeads && x.addSegment() != nil {
		return
	}
	x.buckets++
	from := x.buckets - 1 - 1<<(bits.Len(uint(x.buckets-1))-1)
	x.setHead(x.buckets-1, none)
	rec := x.head(from)
	x.setHead(from, none)
	x.deal(rec)
}

// deal pushes a chain's records anew.
func (x *index) deal(rec handle) {
	for rec != none {
		next := x.mem.link(rec, recChain)
		x.push(rec, x.hashOf(rec))
		rec = next
	}
}

// replace puts rec in the place of old, or with none takes old out of its chain.
func (x *index) replace(old, rec handle, hash uint64) {
	next := x.mem.link(old, recChain)
	if rec != none {
		x.mem.setLink(rec, recChain, next)
		next = rec
	}
	b := x.bucketOf(hash)
	at := x.head(b)
	if at == old {
		x.setHead(b, next)
		return
	}
	for x.mem.link(at, recChain) != old {
		at = x.mem.link(at, recChain)
	}
	x.mem.setLink(at, recChain, next)
}

// remove takes out a record that the index has.
func (x *index) remove(rec handle, hash uint64) {
	x.replace(rec, none, hash)
	x.records--
	x.shrink(2)
}

// shrink joins at most so many buckets, and says whether there are more to join.
func (x *index) shrink(joins int) (more bool) {
	for ; x.scans == 0 && x.buckets > x.records+x.promised; joins-- {
		if joins == 0 {
			return true
		}
		x.join()
	}
	return false
}

// join folds the last bucket into the one it was split from, and gives up a segment that falls empty.
func (x *index) join() {
	last := x.buckets - 1
	rec := x.head(last)
	x.buckets--
	x.deal(rec)
	if last%segmentHeads == 0 {
		x.mem.free(x.segments[len(x.segments)-1], segmentBytes)
		x.segments = x.segments[:len(x.segments)-1]
	}
}

// step visits whole buckets from the one given until it has touched stepRecords of them or of their records. visit may remove the
// record that it is given. It returns the bucket to go on with; done says that there is none.
func (x *index) step(bucket int, visit func(rec handle)) (next int, done bool) {
	for touched := 0; bucket < x.buckets && touched < stepRecords; bucket++ {
		touched++
		for rec := x.head(bucket); rec != none; touched++ {
			after := x.mem.link(rec, recChain)
			visit(rec)
			rec = after
		}
	}
	return bucket, bucket >= x.buckets
}
