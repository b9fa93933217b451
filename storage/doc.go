// Package storage keeps one node's entries in memory that it is given.
//
// A Store holds entries by partition and key in one contiguous arena: index, order by key, deadlines and leases on
// values. It decides neither where a key belongs
// (package ring) nor how bytes travel; it starts no goroutines, makes no system calls, and asks no
// clock: callers pass now, in nanoseconds of a clock that never goes back.
//
// # Who owns memory
//
// Keys given to a method may be modified once it returned. A value's bytes are written by who has its Reservation, and belong
// to the store from the version on; one that is lent may be modified after Settle. Bytes under a Lease are stored memory: read them
// only, and release the lease exactly once. They stay in place when their entry is overwritten, deleted or dropped, count
// against the arena, and are freed by the last Release.
//
// # The limit
//
// The arena is the limit, and a hard one: what does not fit fails with dramnode.ErrNoMemory and changes nothing, or with
// EvictS3FIFO makes room first. In the arena lie records, reservations, hash index, both orders: all that grows with the entries.
// On the Go heap lie 32 bytes per page, for which as much of the arena is never used; some 170 bytes per partition; 8 bytes per 256 index buckets;
// and with eviction 8 bytes of ghosts per 512 bytes of arena. No pointer leads to an entry, so the
// collector's work does not depend on how many there are. Deleting needs no memory where it leaves no tombstone.
//
// # Layout
//
// The arena is cut in pages. A block of up to eight pages is a slot of a slab, which is a run of one to sixteen pages
// with slots of one class: multiples of 8 bytes up to 256, then eight classes per doubling, so that a slot is less than an eighth longer
// than what is asked of it. A longer block has a run of pages of its own. A slab or run that falls empty returns to the common pool
// at once, joined with its free neighbours. Blocks never move, so memory that is free may be too broken up for a large
// value: Stats.LongestFreeBytes tells. Stats.Classes shows for each class what is held, asked for, and free.
//
// An entry is one block: a header of 40 bytes (record.go has its fields, and how to read it without the lock), the key, the
// value. Beside it the index takes 3 to 4 bytes, the order by key 4 (ascending keys) to 8, the order of deadlines as much for
// entries that have one, and eviction 12. The slots' rounding comes on top, and is nothing for a length that is a class.
// TestOverhead measures 47 to 49 bytes for keys of 16 and values of 64 bytes.
//
// # Generations
//
// Who writes gives each version of a key, its deletes too, a generation that the key never had before. Nothing else is
// asked of generations but that DropTombstones goes by their order; 0 is none.
//
// # Versions
//
// The entries of a partition are read and written through its Versions, which may keep a staged version of a key beside the committed
// one. An entry without one pays nothing for that. A staged version has a note, a record of 72 bytes and the key, in an
// index of its own; a commit needs no memory, and neither index nor order nor deadlines can refuse it. Tombstones stay
// until they are dropped by generation: they are listed in that order. The Store itself lists, counts, evicts, and knows memory.
//
// # Locks
//
// A shard's lock guards its partitions, their records, and the leases on their values: commits of one partition are
// ordered by it. Shards share lanes, one per processor: a lane has slabs of its own, and an order of its shards' keys. Inside a shard's lock
// may be taken, in this sequence, an order's lock, a lane's, and the pool's. Listing takes orders' locks
// and shard locks in turn, never together. Each is held for a bounded number of records.
//
// # Eviction
//
// With EvictS3FIFO each shard has the queues of S3-FIFO. The write that needs room evicts, in its own goroutine, until it fits: from all shards in
// turn. Entries with a lease stay, and those of partitions that are not evictable.
package storage
