package storetest

import (
	"testing"

	"github.com/dramnode/dramnode/replica"
	"github.com/dramnode/dramnode/storage"
)

func TestMemstore(t *testing.T) { Run(t, func() Subject { return Mem(7) }) }

func TestArena(t *testing.T) {
	for name, bytes := range map[string]int{"small": 200 << 10, "large": 2 << 20} {
		t.Run(name, func(t *testing.T) { Run(t, func() Subject { return Arena(bytes) }) })
	}
}

// TestArenaOfMany: another partition has its entries in the same index and order.
func TestArenaOfMany(t *testing.T) {
	Run(t, func() Subject {
		s, err := storage.New(storage.Config{Arena: make([]byte, 2<<20), Partitions: 1024, Eviction: storage.EvictS3FIFO})
		if err != nil {
			t.Fatal(err)
		}
		other := ArenaOf(s, 256)
		for _, key := range []string{"", "a", "bb", "stay-1", "come-2", "0000"} {
			b, _ := other.New(len(key), 9, 8)
			if err := apply(other, key, b); err != nil {
				t.Fatal(err)
			}
		}
		return ArenaOf(s, 0)
	})
}

func apply(s Subject, key string, b replica.Blob) error {
	return s.Apply([]byte(key), replica.Version{Gen: 1, Deadline: 3, Value: replica.Value{Blob: b, Bytes: 8}})
}
