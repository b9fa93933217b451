package conformance

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync"
)

var deleteRangeRules = []rule{
	{"38 range", []Feature{DeleteRanges}, func(k *keys) {
		k.fill("a/a", "a/b", "a/c/a", "a/c/b", "b/a", "b/b")
		k.dropRange("a/b", "b/aa")
		k.left("a/a", "b/b")
		var many []string
		for _, a := range "mnop" {
			for _, b := range "pqrs" {
				for _, c := range "stuv" {
					many = append(many, fmt.Sprintf("%c/%c/%c/data", a, b, c))
				}
			}
		}
		k.fill(many...)
		k.dropRange("l", "z")
		k.left("a/a", "b/b")
	}},
	{"39 prefix", []Feature{DeleteRanges}, func(k *keys) {
		k.fill("a/b", "a/c/a", "a/c/b", "a/d")
		k.dropRange("a/c/", "a/c0")
		k.left("a/b", "a/d")
	}},
	{"40 without an end", []Feature{DeleteRanges}, func(k *keys) {
		k.fill("a/a", "a/b", "a/c/a", "a/c/b", "b/a", "b/b")
		k.dropRange("a/b", "")
		k.left("a/a")
	}},
	{"41 from the beginning", []Feature{DeleteRanges}, func(k *keys) {
		k.fill("a/a", "a/b", "a/c/a", "a/c/b", "b/a", "b/b")
		k.dropRange("", "a/c/aa")
		k.left("a/c/b", "b/a", "b/b")
	}},
}

var listed = []string{"a/b", "a/c/x", "a/c/y", "a/c/z/e", "a/c/z/f", "a/d"}

var listRules = []rule{
	{"42 empty", []Feature{Lists}, func(k *keys) { k.wantList("", "") }},
	{"43 all, with sizes", []Feature{Lists}, func(k *keys) {
		k.fill(listed...)
		k.wantList("", "", listed...)
	}},
	{"44 prefix", []Feature{Lists}, func(k *keys) {
		k.fill(listed...)
		k.wantList("a/c/", "a/c0", listed[1:5]...)
	}},
	{"45 cancelled before", []Feature{Lists}, func(k *keys) {
		k.fill(listed...)
		ctx, cancel := context.WithCancel(k.ctx)
		cancel()
		if err := k.a.List(ctx, "", "", func(Entry) bool { return true }); err == nil {
			k.Error("a cancelled list succeeds")
		}
	}},
	{"46 ended after two", []Feature{Lists}, func(k *keys) {
		k.fill(listed...)
		n := 0
		if err := k.a.List(k.ctx, "", "", func(Entry) bool { n++; return n < 2 }); err != nil || n != 2 {
			k.Errorf("%d entries, %v", n, err)
		}
	}},
	{"47 under a prefix", []Feature{Lists}, func(k *keys) {
		k.fill("o", "p/a", "p/b/c", "q")
		k.wantList("p/", "p0", "p/a", "p/b/c")
	}},
}

var moreRules = []rule{
	{"48 special characters", nil, func(k *keys) {
		const key = "key_subdir/a!b@c$d"
		k.want(whole(key), Value, k.must(key, someValue), someValue)
		if k.a.Lacks(Lists) == "" {
			k.wantList("", "", key)
		}
		k.drop(key, Unknown)
		k.want(whole(key), Missing, NoValue, "")
	}},
	{"49 large value", []Feature{LargeValues}, func(k *keys) {
		value := strings.Repeat("0123456789abcde\n", 2<<20/16)
		g := k.must("k", value)
		if got := k.read(whole("k")); string(got.Bytes) != value {
			k.Errorf("%d bytes come back as %d others", len(value), len(got.Bytes))
		}
		if k.a.Lacks(Ranges) == "" {
			k.want(part("k", 1<<20-3, 1<<20+3), Value, g, value[1<<20-3:1<<20+3])
		}
	}},
	{"50 concurrent writes", []Feature{ConditionalWrite, Generations}, func(k *keys) {
		const writers, rounds = 4, 25
		k.must("k", string(make([]byte, 8*writers)))
		var wg sync.WaitGroup
		for i := range writers {
			wg.Go(func() {
				for range rounds {
					if !k.increase(8 * i) {
						return
					}
				}
			})
		}
		wg.Wait()
		got := k.read(whole("k"))
		for i := range writers {
			if n := binary.LittleEndian.Uint64(got.Bytes[8*i:]); n != rounds {
				k.Errorf("slot %d counts %d, want %d", i, n, rounds)
			}
		}
	}},
}

// increase counts in the slot at offset, by compare and set. It runs on goroutines, so nothing is fatal.
func (k *keys) increase(offset int) bool {
	for range 10_000 {
		got, err := k.a.Read(k.ctx, whole("k"))
		if err != nil {
			k.Error(err)
			return false
		}
		slot := got.Bytes[offset : offset+8]
		binary.LittleEndian.PutUint64(slot, binary.LittleEndian.Uint64(slot)+1)
		g, err := k.a.Write(k.ctx, "k", got.Bytes, got.Generation)
		if err != nil {
			k.Error(err)
			return false
		}
		if g != Unknown {
			return true
		}
	}
	k.Error("never the first to write")
	return false
}

// fill writes keys with their names as values.
func (k *keys) fill(names ...string) {
	k.Helper()
	for _, name := range names {
		k.must(name, name)
	}
}

func (k *keys) dropRange(min, max string) {
	k.Helper()
	if err := k.a.DeleteRange(k.ctx, min, max); err != nil {
		k.Fatalf("deleting [%q,%q): %v", min, max, err)
	}
}

// left checks which of the keys that were written there are.
func (k *keys) left(want ...string) {
	k.Helper()
	for key := range k.used {
		state := Missing
		if slices.Contains(want, key) {
			state = Value
		}
		if got := k.read(whole(key)); got.State != state {
			k.Errorf("%q: state %d, want %d", key, got.State, state)
		}
	}
}

// wantList lists [min,max) and compares keys and sizes; keys hold their names or someValue.
func (k *keys) wantList(min, max string, want ...string) {
	k.Helper()
	var got []string
	err := k.a.List(k.ctx, min, max, func(e Entry) bool {
		got = append(got, e.Key)
		if e.Size != int64(len(e.Key)) && e.Size != int64(len(someValue)) {
			k.Errorf("%q has %d bytes in the list", e.Key, e.Size)
		}
		return true
	})
	if err != nil {
		k.Fatalf("listing [%q,%q): %v", min, max, err)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		k.Errorf("[%q,%q) lists %q, want %q", min, max, got, want)
	}
}
