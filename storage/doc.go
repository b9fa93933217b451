// Package storage keeps one node's entries in memory that it is given.
//
// A Store holds entries by partition and key in one contiguous arena: index, order by key, deadlines, leases on
// values, and the stream by which a partition moves to another node. It decides neither where a key belongs
// (package ring) nor how bytes travel; it starts no goroutines, makes no system calls, and asks no
// clock: callers pass now, in nanoseconds of a clock that never goes back.
//
// # Who owns memory
//
// Keys and values given to a method may be modified once it returned, except the bytes of a Reservation, which
// belong to the store from Commit on. Bytes under a Lease are stored memory: read them only, and release the
// lease exactly once. They stay in place when their entry is overwritten, deleted, expired or dropped, count
// against the arena, and are freed by the last Release.
//
// # The limit
//
// The arena is the limit, and a hard one: what does not fit fails with dramnode.ErrNoMemory and changes nothing. In
// it lie the key records, the values, the reservations and the hash index. On the Go heap lie one
// page descriptor per page and the nodes of two trees, and they count against the arena by estimate: 32 bytes per
// page, 24 per entry, and 24 more per entry with a deadline, for which as many pages are kept free. A fixed 150 or so bytes per partition and 8
// bytes per 256 index buckets are not counted. Deleting needs no memory, unless a tombstone is applied for
// a key that is not there.
//
// # Layout
//
// The arena is cut in pages, after a side table of 8 bytes per 2 KiB. A block of up to four pages is a slot of a slab,
// which is a run of one to eight pages with slots of one class; there are four classes per doubling, so that
// a slot is at most a quarter longer than what is asked of it (up to 64 bytes: 8 bytes longer). A longer block has a run of pages of its
// own. A slab or run that falls empty returns to the common pool at once, joined with its free neighbours. Blocks
// never move, so memory that is free may be too broken up for a large value: Stats.LongestFreeBytes tells.
//
// An entry costs, beside its value and key: a record of 72 bytes, 8 bytes each of block cell for record and value
// (blocks longer than 1792 bytes have theirs in the side table), 8 to 16 bytes of index, and 24 bytes of tree
// (48 with a deadline); and what rounding up to the classes adds. An empty value has no block.
//
// # Generations
//
// A write gets the generation max(last+1, epoch<<32|1) when it is committed, where last is the highest that its partition
// ever gave out or applied. last survives deletes and DropPartition. A partition whose last was lost (a new
// process) must go on with a higher epoch; the same holds after 2^32 writes in one epoch.
//
// Each partition lists its records in order of generation, and a Stream walks that list while writes go on at its end.
//
// # Locks
//
// A shard's lock guards its partitions, their records, and the leases on their values: commits of one partition are
// ordered by it. Inside it may be taken the order's lock, or the memory's lock; inside those, none. Listing takes
// the order's lock and shard locks in turn, never together. Each is held for a bounded number of records.
package storage
