package storage

import (
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"sync"
	"sync/atomic"

	"github.com/dramnode/dramnode"
	"github.com/tidwall/btree"
)

const (
	shardsMax    = 256
	stepRecords  = 256 // records that are touched under one hold of a lock, at most
	arenaMax     = 1 << 48
	partitionMax = 1 << 16
	epochMax     = 1<<31 - 1 // generations keep their top bit clear

	defaultPageBytes      = 32 << 10
	defaultSmallPageBytes = 4 << 10
	smallArenaBytes       = 16 << 20
)

// Config says what a Store works with.
type Config struct {
	Arena         []byte // all the memory there is; the store's from New on, contents ignored
	Partitions    int    // 1 to 65536
	MaxValueBytes int    // 0: dramnode.DefaultMaxValueBytes

	// PageBytes is the unit that kinds of blocks share memory by, a power of two from 4 KiB to 1 MiB.
	// 0: 32 KiB, in arenas below 16 MiB 4 KiB.
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
	if len(c.Arena) < 8*c.PageBytes || len(c.Arena) >= arenaMax {
		fault("an arena of %d bytes, want at least 8 pages of %d", len(c.Arena), c.PageBytes)
	}
	return errors.Join(errs...)
}

// A Store keeps one node's entries. All methods may be called from any goroutine.
type Store struct {
	config     Config
	mem        *memory
	order      *order
	seed       maphash.Seed
	shards     []shard
	partitions []partition // p is guarded by the lock of shard p % len(shards)

	expireAt atomic.Uint32 // the shard that Expire begins behind
}

// A shard is the partitions that share a lock. See "Locks" in the package comment.
type shard struct {
	number int

	mu          sync.Mutex // guards everything below, the shard's partitions and records, and their values' cells
	index       index
	ttl         *btree.BTreeG[handle]
	leases      int
	leasedBytes int64
}

// New returns an empty store in c.Arena.
func New(c Config) (*Store, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("storage: %w", err)
	}
	c = c.withDefaults()
	mem, err := newMemory(c.Arena, c.PageBytes)
	if err != nil {
		return nil, fmt.Errorf("storage: %w", err)
	}
	s := &Store{
		config:     c,
		mem:        mem,
		order:      newOrder(mem),
		seed:       maphash.MakeSeed(),
		shards:     make([]shard, min(c.Partitions, shardsMax)),
		partitions: make([]partition, c.Partitions),
	}
	for i := range s.shards {
		s.shards[i].number = i
		s.shards[i].index.mem = mem
		s.shards[i].ttl = newTTL(mem)
	}
	return s, nil
}

func (s *Store) shard(p uint16) *shard { return &s.shards[int(p)%len(s.shards)] }

func (s *Store) identify(p uint16, key []byte) identity {
	return identity{partition: p, hash: maphash.Bytes(s.seed, key), key: key}
}

// checkPartition and checkWrite hold what may come from a peer against its limits.
func (s *Store) checkPartition(p uint16) error {
	if int(p) >= len(s.partitions) {
		return fmt.Errorf("storage: %w: partition %d of %d", dramnode.ErrInvalid, p, len(s.partitions))
	}
	return nil
}

func (s *Store) checkWrite(p uint16, key []byte, epoch uint32) error {
	if err := s.checkPartition(p); err != nil {
		return err
	}
	if epoch > epochMax {
		return fmt.Errorf("storage: %w: epoch %d, want at most %d", dramnode.ErrInvalid, epoch, epochMax)
	}
	return dramnode.CheckKey(key)
}
