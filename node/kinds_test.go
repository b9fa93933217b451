package node

import (
	"slices"
	"testing"
)

// A kind is one of the two ways to keep partitions.
type kind struct {
	name   string
	change func(*Config)
}

var kinds = []kind{{"single", func(*Config) {}}, {"replicated", replicated}}

// eachKind runs a test of what holds on all clusters.
func eachKind(t *testing.T, test func(t *testing.T, k kind)) {
	t.Parallel()
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			test(t, k)
		})
	}
}

// cluster starts nodes of this kind and waits until they serve. change may be nil.
func (k kind) cluster(t testing.TB, seed uint64, change func(*Config), names ...string) *cluster {
	t.Helper()
	c := newClusterWith(t, seed, func(cfg *Config) {
		k.change(cfg)
		if change != nil {
			change(cfg)
		}
	}, names...)
	c.ready(names...)
	return c
}

// ready waits until exactly these nodes serve, and nothing is left to move or to copy.
func (c *cluster) ready(names ...string) {
	c.t.Helper()
	if c.nodes[names[0]].replicas != nil {
		c.settled(names...)
		c.wait("every node to be the primary of something", func() bool { return !slices.Contains(c.nodes[names[0]].Table().Owned(), 0) })
	} else {
		c.agree(names...)
	}
}
