package ring

import (
	"bytes"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// A Map finds the partition of a key. It never changes, so any goroutine may use it.
type Map struct {
	strategy Strategy
	hashed   uint64 // number of hash partitions
	splits   [][]byte
	rules    []prefixRule // ascending by prefix
}

// A prefixRule knows the next shorter rule that matches whatever it matches.
type prefixRule struct {
	prefix    []byte
	partition Partition
	parent    int // index of the longest rule that is a proper prefix of this one, or -1
}

// New returns the map for c, or the faults that c.Validate finds.
func New(c Config) (*Map, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c = c.canonical()
	m := &Map{strategy: c.Strategy, hashed: uint64(c.Partitions)}
	for _, split := range c.Splits {
		m.splits = append(m.splits, bytes.Clone(split))
	}
	for i, rule := range c.Rules {
		m.rules = append(m.rules, prefixRule{prefix: []byte(rule.Prefix), partition: Partition(c.Partitions + i)})
	}
	slices.SortFunc(m.rules, func(a, b prefixRule) int { return bytes.Compare(a.prefix, b.prefix) })
	for i := range m.rules {
		// The parent of i sorts before i, and everything between the two starts with it too.
		parent := i - 1
		for parent >= 0 && !bytes.HasPrefix(m.rules[i].prefix, m.rules[parent].prefix) {
			parent = m.rules[parent].parent
		}
		m.rules[i].parent = parent
	}
	return m, nil
}

// Partition returns the partition of key. It does not allocate and keeps nothing.
func (m *Map) Partition(key []byte) Partition {
	switch m.strategy {
	case Range:
		return m.rangePartition(key)
	case Explicit:
		if i := m.rule(key); i >= 0 {
			return m.rules[i].partition
		}
	}
	return Partition(xxhash.Sum64(key) % m.hashed)
}

// rangePartition counts the split points up to key, inclusive.
func (m *Map) rangePartition(key []byte) Partition {
	i, found := slices.BinarySearchFunc(m.splits, key, bytes.Compare)
	if found {
		i++
	}
	return Partition(i)
}

// rule returns the index of the longest rule that matches key, or -1. Every rule that matches key is
// also a prefix of the greatest rule that does not sort after key, so it is an ancestor of that one.
func (m *Map) rule(key []byte) int {
	i, found := slices.BinarySearchFunc(m.rules, key, func(r prefixRule, key []byte) int {
		return bytes.Compare(r.prefix, key)
	})
	if !found {
		i--
	}
	for i >= 0 && !bytes.HasPrefix(key, m.rules[i].prefix) {
		i = m.rules[i].parent
	}
	return i
}
