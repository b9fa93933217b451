package storage

import "math/bits"

// An index finds the records of one shard by linear hashing: it has as many buckets as records, and each insert
// that makes more records than buckets splits one bucket, each removal may join one. So no operation
// pauses for a rehash. Bucket heads lie in the arena, in segments; without memory for
// a segment the index stops growing and its chains get longer.
type index struct {
	mem      *memory
	segments []handle // each holds segmentHeads bucket heads
	buckets  int
	records  int
}

const (
	segmentHeads = 256
	segmentBytes = segmentHeads * 8
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
	seg, err := x.mem.alloc(segmentBytes)
	if err != nil {
		return err
	}
	clear(x.mem.payload(seg, segmentBytes))
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

func (x *index) head(bucket int) handle {
	return x.mem.link(x.segments[bucket/segmentHeads], bucket%segmentHeads*8)
}

func (x *index) setHead(bucket int, rec handle) {
	x.mem.setLink(x.segments[bucket/segmentHeads], bucket%segmentHeads*8, rec)
}

func (x *index) find(id *identity) handle {
	if x.buckets == 0 {
		return none
	}
	rec := x.head(x.bucketOf(id.hash))
	for rec != none && !x.mem.recordIs(rec, id) {
		rec = x.mem.link(rec, recChain)
	}
	return rec
}

// insert adds a record whose key the index does not have. prepare succeeded before.
func (x *index) insert(rec handle) {
	x.push(rec)
	x.records++
	if x.records > x.buckets {
		x.split()
	}
}

func (x *index) push(rec handle) {
	b := x.bucketOf(x.mem.u64(rec, recHash))
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
	x.spread(from)
}

// spread deals the records of a bucket out anew.
func (x *index) spread(bucket int) {
	rec := x.head(bucket)
	x.setHead(bucket, none)
	for rec != none {
		next := x.mem.link(rec, recChain)
		x.push(rec)
		rec = next
	}
}

// remove takes out a record that the index has.
func (x *index) remove(rec handle) {
	b := x.bucketOf(x.mem.u64(rec, recHash))
	next := x.mem.link(rec, recChain)
	if at := x.head(b); at == rec {
		x.setHead(b, next)
	} else {
		for x.mem.link(at, recChain) != rec {
			at = x.mem.link(at, recChain)
		}
		x.mem.setLink(at, recChain, next)
	}
	x.records--
	for n := 0; n < 2 && x.buckets > 2*x.records; n++ {
		x.join()
	}
}

// join folds the last bucket into the one it was split from, and gives up a segment that falls empty.
func (x *index) join() {
	last := x.buckets - 1
	rec := x.head(last)
	x.buckets--
	for rec != none {
		next := x.mem.link(rec, recChain)
		x.push(rec)
		rec = next
	}
	if last%segmentHeads == 0 {
		x.mem.free(x.segments[len(x.segments)-1])
		x.segments = x.segments[:len(x.segments)-1]
	}
}
