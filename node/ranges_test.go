package node

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/test/proc"
	"github.com/dramnode/dramnode/wire"
)

// everyPage asks each owner of t for the keys from start to end, page by page. ok is false as soon as
// a node refuses: the listing is then to be repeated by a newer table.
func (c *caller) everyPage(t *control.Table, kind wire.Kind, start, end string, limit uint32) (keys []string, deleted uint64, ok bool) {
	c.t.Helper()
	for i, m := range t.Members {
		q := wire.ListRequest{Start: []byte(start), End: []byte(end), Limit: limit, Partitions: make([]uint64, (len(t.Rows)+63)/64)}
		owned := 0
		for p, r := range t.Rows {
			if int(r.Owner) == i {
				q.Partitions[p/64] |= 1 << (p % 64)
				owned++
			}
		}
		for more := owned > 0; more; {
			h := wire.Header{Kind: kind}
			if kind == wire.KindDeleteRange {
				h.Ext = wire.AppendWriteExt(nil, wire.WriteExt{Client: c.id, Counter: c.counter.Add(1)})
			}
			r := c.once(m.Name, h, wire.AppendListRequest(nil, &q))
			err := r.failure()
			// A listing has no outcome that could be unknown, but its answer may get lost.
			unknown := errors.Is(err, dramnode.ErrUnknownOutcome) && (r.err != nil || kind == wire.KindDeleteRange)
			switch {
			case refused(err) || unknown:
				return nil, 0, false
			case err != nil:
				c.t.Fatalf("kind %d at %s: %v: %s", kind, m.Name, err, r.body)
			}
			if kind == wire.KindDeleteRange {
				ext, err := wire.ParseReplyExt(r.header.Ext)
				if err != nil {
					c.t.Fatal(err)
				}
				deleted, more = deleted+ext.Size, false
				continue
			}
			page, err := wire.ParseListReply(r.body, nil)
			if err != nil || len(page.Entries) > int(limit) || more && page.More && len(page.Entries) == 0 {
				c.t.Fatalf("page of %d entries, more %v: %v", len(page.Entries), page.More, err)
			}
			for _, e := range page.Entries {
				if q.After = bytes.Clone(e.Key); e.Generation == dramnode.Absent {
					c.t.Errorf("%s is listed without generation", e.Key)
				}
				keys = append(keys, string(e.Key))
			}
			more = page.More
		}
	}
	slices.Sort(keys)
	return keys, deleted, true
}

// mustList repeats until a table holds for the whole listing.
func (c *caller) mustList(n *running, start, end string, limit uint32) (keys []string) {
	c.t.Helper()
	keys, _, _ = c.untilWhole(n, wire.KindList, start, end, limit)
	return keys
}

// mustDelete deletes a range, of which want keys are there. What a try deleted before it was refused is not counted by the next one.
func (c *caller) mustDelete(n *running, start, end string, want uint64) {
	c.t.Helper()
	if _, deleted, first := c.untilWhole(n, wire.KindDeleteRange, start, end, 1); deleted > want || first && deleted != want {
		c.t.Errorf("%d keys deleted from %s to %s, want %d, in one try: %v", deleted, start, end, want, first)
	}
}

// untilWhole repeats everyPage until a table holds for all of it, and reports whether the first did.
func (c *caller) untilWhole(n *running, kind wire.Kind, start, end string, limit uint32) (keys []string, deleted uint64, first bool) {
	c.t.Helper()
	first = true
	for deadline := time.Now().Add(eventually); time.Now().Before(deadline); <-time.After(time.Millisecond) {
		if keys, deleted, ok := c.everyPage(n.Table(), kind, start, end, limit); ok {
			return keys, deleted, first
		}
		first = false
	}
	c.t.Fatal("no table holds for a whole listing")
	return nil, 0, false
}

func TestListAndDeleteRange(t *testing.T) {
	eachCount(t, testListAndDeleteRange)
}

func testListAndDeleteRange(t *testing.T, copies func(*Config)) {
	c := newClusterWith(t, 41, with(copies), "n1", "n2", "n3")
	user := c.caller()
	var all []string
	for i := range 250 {
		key := fmt.Sprintf("%s/%04d", []string{"a", "b"}[i%2], i)
		user.put("n1", key, []byte(key))
		all = append(all, key)
	}
	slices.Sort(all)
	long := strings.Repeat("z", dramnode.MaxKeyBytes)
	for _, limit := range []uint32{1, 7, 1000} {
		if keys := user.mustList(c.nodes["n1"], "", "", limit); !slices.Equal(keys, all) {
			t.Errorf("limit %d: %d keys, want %d", limit, len(keys), len(all))
		}
	}
	// Bounds so long that the request does not travel inline.
	if keys := user.mustList(c.nodes["n1"], strings.Repeat("a", 3000), long, 1000); !slices.Equal(keys, all[125:]) {
		t.Errorf("between long bounds: %d keys, want those of b", len(keys))
	}
	user.expect("n1", wire.Header{Kind: wire.KindList}, wire.AppendListRequest(nil, &wire.ListRequest{Limit: 5, Partitions: []uint64{1 << 62}}), wire.StatusInvalid)
	everything := wire.AppendListRequest(nil, &wire.ListRequest{Limit: 5, Partitions: []uint64{1<<len(c.nodes["n1"].replicas.parts) - 1}})
	user.expect("n1", wire.Header{Kind: wire.KindList}, everything, wire.StatusNotOwner) // others own some of it
	user.expect("n1", wire.Header{Kind: wire.KindDeleteRange, Ext: putOf("", nil).Ext}, everything, wire.StatusNotOwner)

	user.mustDelete(c.nodes["n1"], "a/", "a0", 125)
	user.mustDelete(c.nodes["n1"], "a/", "a0", 0)
	if keys := user.mustList(c.nodes["n1"], "", "", 1000); !slices.Equal(keys, all[125:]) {
		t.Errorf("%d keys are left, want those of b", len(keys))
	}
	if m := c.nodes["n1"].Info().Memory; m.Reserved != 0 {
		t.Errorf("%d bytes are reserved at rest", m.Reserved)
	}
}

// TestListWhileMoving lists again and again while partitions move: it may be refused, but never
// leaves a key out.
func TestListWhileMoving(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 42, "n1", "n2")
	user := c.caller()
	var all []string
	for i := range 300 {
		key := fmt.Sprintf("kept/%04d", i)
		user.put("n1", key, value(key, 1000))
		all = append(all, key)
	}
	c.world.SetDelay(0, 2*time.Millisecond)
	l := c.load(42, 2, "n1", "n2") // keys "load-...": outside of what is listed
	c.start("n3", proc.Address(t, nil))
	c.wait("moves", func() bool { return c.nodes["n1"].Info().Moving > 0 })
	whole, refused, moving := 0, 0, true
	for deadline := time.Now().Add(eventually); (moving || whole == 0) && time.Now().Before(deadline); {
		moving = c.nodes["n1"].Info().Moving > 0
		keys, _, ok := user.everyPage(c.nodes["n1"].Table(), wire.KindList, "kept/", "kept0", 50)
		if !ok {
			refused++
			continue
		}
		whole++
		if !slices.Equal(keys, all) {
			t.Fatalf("a listing during moves has %d keys, want %d", len(keys), len(all))
		}
	}
	t.Logf("%d listings were whole, %d refused", whole, refused)
	if whole == 0 || moving {
		t.Error("no listing succeeded, or the moves did not end")
	}
	user.mustDelete(c.nodes["n2"], "kept/", "kept/0100", 100)
	// A range is deleted while its partitions leave n1.
	c.nodes["n1"].stop()
	c.wait("n1 to leave", func() bool { return c.nodes["n2"].Info().Moving > 0 })
	user.mustDelete(c.nodes["n2"], "kept/", "kept/0200", 100)
	<-c.nodes["n1"].done
	l.nodes.set("n2", "n3")
	c.ready("n2", "n3")
	if keys := user.mustList(c.nodes["n3"], "kept/", "kept0", 1000); !slices.Equal(keys, all[200:]) {
		t.Errorf("%d keys are left, want 100", len(keys))
	}
	l.stop("n2")
}
