package ring

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"
	"pgregory.net/rapid"
)

func sortedTexts(texts []string) []string {
	texts = slices.Clone(texts)
	slices.Sort(texts)
	return texts
}

// plainPartition is what Map.Partition must return, spelled out naively.
func plainPartition(c Config, key []byte) Partition {
	if c.Strategy == Range {
		p := 0
		for _, split := range c.Splits {
			if bytes.Compare(split, key) <= 0 {
				p++
			}
		}
		return Partition(p)
	}
	longest, partition := 0, Partition(xxhash.Sum64(key)%uint64(c.canonical().Partitions))
	for i, rule := range c.Rules {
		if strings.HasPrefix(string(key), rule.Prefix) && len(rule.Prefix) > longest {
			longest, partition = len(rule.Prefix), Partition(c.canonical().Partitions+i)
		}
	}
	return partition
}

func TestPartition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawConfig(t)
		m, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		keys := rapid.SliceOfN(rapid.StringMatching("[abc]{1,6}"), 1, 30).Draw(t, "keys")
		var last Partition
		for _, key := range sortedTexts(keys) {
			got := m.Partition([]byte(key))
			if want := plainPartition(c, []byte(key)); got != want {
				t.Fatalf("the partition of %q is %d, want %d", key, got, want)
			}
			if int(got) >= c.Count() {
				t.Fatalf("partition %d of %d", got, c.Count())
			}
			if c.Strategy == Range && got < last {
				t.Fatalf("%q is in partition %d, a lesser key in %d", key, got, last)
			}
			last = got
		}
	})
}

func TestMapKeepsNothing(t *testing.T) {
	c := Config{Strategy: Range, Splits: [][]byte{[]byte("m")}}
	m, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	c.Splits[0][0] = 'a'
	if got := m.Partition([]byte("c")); got != 0 {
		t.Errorf("the map changed with its settings: partition %d, want 0", got)
	}
}

// strategies are settings of a realistic size, one per strategy.
func strategies() map[string]Config {
	ranged, explicit := Config{Strategy: Range}, Config{Strategy: Explicit}
	for i := range 1000 {
		ranged.Splits = append(ranged.Splits, fmt.Appendf(nil, "bucket/%04d", i))
		explicit.Rules = append(explicit.Rules, Rule{fmt.Sprintf("bucket/%04d", i), "node-1"})
	}
	return map[string]Config{"hash": {}, "range": ranged, "explicit": explicit}
}

func TestPartitionDoesNotAllocate(t *testing.T) {
	for name, c := range strategies() {
		m, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range [][]byte{[]byte("bucket/0500/x"), []byte("a"), bytes.Repeat([]byte("z"), 4096)} {
			if n := testing.AllocsPerRun(100, func() { m.Partition(key) }); n != 0 {
				t.Errorf("%s: Partition of %.20q allocates %v times, want 0", name, key, n)
			}
		}
	}
}

func BenchmarkPartition(b *testing.B) {
	for name, c := range strategies() {
		b.Run(name, func(b *testing.B) {
			m, err := New(c)
			if err != nil {
				b.Fatal(err)
			}
			key := []byte("bucket/0500/chunk")
			b.ReportAllocs()
			for b.Loop() {
				m.Partition(key)
			}
		})
	}
}
