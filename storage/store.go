package storage

import (
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/dramnode/dramnode"
)

const (
	shardsMax    = 256
	stepRecords  = 256 // records that are touched under one hold of a lock, at most
	arenaMax     = 1 << 40
	lanesMax     = 16
	laneBytes    = 32 << 20 // of arena that a lane is worth
	partitionMax = 1 << 16

	defaultPageBytes      = 8 << 10
	defaultSmallPageBytes = 4 << 10
	smallArenaBytes       = 16 << 20
)

// Config says what a Store works with.
type Config struct {
	Arena         []byte // all the memory there is; the store's from New on, contents ignored
	Partitions    int    // 1 to 65536
	MaxValueBytes int    // 0: dramnode.DefaultMaxValueBytes
	Eviction      Eviction

	// Words is Arena as words, for those who map it and read records without the lock; see recState. nil: nobody does.
	Words []atomic.Uint64

	// PageBytes is the unit that kinds of blocks share memory by, a power of two from 4 KiB to 1 MiB.
	// 0: 8 KiB, in arenas below 16 MiB 4 KiB.
	PageBytes int
}

func (c Config) withDefaults() Config {
	if c.MaxValueBytes == 0 {
		c.MaxValueBytes = dramnode.DefaultMaxValueBytes
	}
	if c.PageBytes == 0 {
		c.PageBytes = defaultPageBytes
		if len(c.Arena) < smallArenaBytes {
			c.PageBytes = defaultSmallPageBytes
		}
	}
	return c
}

// Validate reports every fault.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	fault := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: "+format, append([]any{dramnode.ErrInvalid}, args...)...))
	}
	if c.Partitions < 1 || c.Partitions > partitionMax {
		fault("%d partitions, want 1 to %d", c.Partitions, partitionMax)
	}
	if c.MaxValueBytes < 1 || c.MaxValueBytes > math.MaxUint32 {
		fault("a value limit of %d bytes, want 1 to %d", c.MaxValueBytes, math.MaxUint32)
	}
	if c.PageBytes < 4<<10 || c.PageBytes > 1<<20 || c.PageBytes&(c.PageBytes-1) != 0 {
		fault("pages of %d bytes, want a power of two from 4 KiB to 1 MiB", c.PageBytes)
	}
	if len(c.Arena) < 8*c.PageBytes || len(c.Arena) > arenaMax {
		fault("an arena of %d bytes, want at least 8 pages of %d and at most %d", len(c.Arena), c.PageBytes, arenaMax)
	}
	if c.Words != nil && len(c.Words) != len(c.Arena)/8 {
		fault("%d words for an arena of %d bytes", len(c.Words), len(c.Arena))
	}
	if c.Eviction > EvictS3FIFO {
		fault("eviction policy %d", c.Eviction)
	}
	return errors.Join(errs...)
}

// A Store keeps one node's entries. All methods may be called from any goroutine.
type Store struct {
	config     Config
	mem        *memory
	orders     []order // shard n's entries are in orders[n % len(orders)]
	seed       maphash.Seed
	shards     []shard
	partitions []partition // p is guarded by the lock of shard p % len(shards)

	evictAt atomic.Uint32 // the shard that evicts before the next
	turn    atomic.Uint32 // the shard whose lane the next reservation is in
}

// A shard is the partitions that share a lock. See "Locks" in the package comment.
type shard struct {
	number int
	lane   int
	order  *order

	mu          sync.Mutex // guards everything below, the shard's partitions, and their records and leases
	index       index
	staged      index // of notes: see Versions
	ttl         tree
	queues      queues
	leases      int
	leasedBytes int64
}

// New returns an empty store in c.Arena.
func New(c Config) (*Store, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("storage: %w", err)
	}
	c = c.withDefaults()
	shards := min(c.Partitions, shardsMax)
	lanes := max(1, min(runtime.GOMAXPROCS(0), lanesMax, shards, len(c.Arena)/laneBytes))
	mem, err := newMemory(c, lanes)
	if err != nil {
		return nil, fmt.Errorf("storage: %w", err)
	}
	s := &Store{
		config:     c,
		mem:        mem,
		orders:     make([]order, lanes),
		seed:       maphash.MakeSeed(),
		shards:     make([]shard, shards),
		partitions: make([]partition, c.Partitions),
	}
	for i := range s.orders {
		s.orders[i].init(mem, i)
	}
	for i := range s.shards {
		s.shards[i].init(s, i)
	}
	return s, nil
}

func (sh *shard) init(s *Store, number int) {
	sh.number, sh.lane = number, number%len(s.orders)
	sh.order = &s.orders[sh.lane]
	sh.index = index{mem: s.mem, lane: sh.lane, seed: s.seed}
	sh.staged = sh.index
	sh.ttl = tree{mem: s.mem, lane: sh.lane, less: s.mem.earlier}
	if s.config.Eviction == EvictS3FIFO {
		sh.queues.init(s.mem, ghostsFor(len(s.config.Arena), len(s.shards)))
	}
}

func (s *Store) shard(p uint16) *shard { return &s.shards[int(p)%len(s.shards)] }

func (s *Store) identify(p uint16, key []byte) identity {
	return identity{partition: p, hash: maphash.Bytes(s.seed, key), key: key}
}

// checkPartition holds a partition's number, which may come from a peer, against its limit.
func (s *Store) checkPartition(p uint16) error {
	if int(p) >= len(s.partitions) {
		return fmt.Errorf("storage: %w: partition %d of %d", dramnode.ErrInvalid, p, len(s.partitions))
	}
	return nil
}
