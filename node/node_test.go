package node

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/test/proc"
)

func value(key string, n int) []byte {
	return bytes.Repeat([]byte(key+"."), n/(len(key)+1)+1)[:n]
}

func TestAnyNodeServesAnyKey(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, "n1", "n2", "n3")
	user := c.caller()
	sizes := []int{0, 1, 64, 4096, 5000, 100_000, 3 << 20}
	key := func(i int) string { return fmt.Sprintf("key-%d", i) }
	const keys = 300
	for i := range keys {
		user.put([]string{"n1", "n2", "n3"}[i%3], key(i), value(key(i), sizes[i%len(sizes)]%(1<<uint(10+i%12))))
	}
	for i := range keys {
		for _, node := range []string{"n1", "n2", "n3"} {
			got, err := user.get(node, key(i))
			if want := value(key(i), sizes[i%len(sizes)]%(1<<uint(10+i%12))); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("get %s through %s: %d bytes, %v; want %d", key(i), node, len(got), err, len(want))
			}
		}
	}
	if _, err := user.get("n2", "absent"); !errors.Is(err, dramnode.ErrNotFound) {
		t.Errorf("get of an absent key: %v", err)
	}
}

func TestJoinAndLeaveKeepEveryEntry(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, "n1")
	user := c.caller()
	key := func(i int) string { return fmt.Sprintf("key-%d", i) }
	const keys = 500
	for i := range keys {
		user.put("n1", key(i), value(key(i), 100+i*37%9000))
	}
	check := func(node string) {
		t.Helper()
		for i := range keys {
			got, err := user.get(node, key(i))
			if err != nil || !bytes.Equal(got, value(key(i), 100+i*37%9000)) {
				t.Fatalf("get %s through %s: %d bytes, %v", key(i), node, len(got), err)
			}
		}
	}
	c.start("n2", proc.Address(t, nil))
	c.start("n3", proc.Address(t, nil))
	c.ready("n1", "n2", "n3")
	check("n2")
	c.nodes["n1"].stop()
	<-c.nodes["n1"].done
	if err := c.nodes["n1"].err; err != nil {
		t.Fatalf("n1 left with %v", err)
	}
	c.ready("n2", "n3")
	check("n3")
	for _, n := range []string{"n2", "n3"} {
		if l := c.nodes[n].Info().Losses; l != 0 {
			t.Errorf("%s counts %d losses", n, l)
		}
	}
}

// TestPortTaken has a node whose gossip cannot listen: it ends by saying so, and has founded nothing.
func TestPortTaken(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 76, "n1")
	taken := c.start("n2", c.seeds[0]) // the only seed is this address: free, it would found
	<-taken.done
	if taken.err == nil || taken.Table() != nil {
		t.Errorf("the node ended with %v; it has a table: %v", taken.err, taken.Table() != nil)
	}
}
