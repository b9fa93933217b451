package storage

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func list(s interface {
	List(Listing, func(Entry) bool) bool
}, l Listing) (keys []string, more bool) {
	more = s.List(l, func(e Entry) bool {
		keys = append(keys, string(e.Key))
		return true
	})
	return keys, more
}

func TestList(t *testing.T) {
	s := open(t, 1<<20)
	for i, k := range []string{"c", "a", "b", "b\x00", "bb", "d"} {
		mustPut(t, s, uint16(i), k, "v", Info{})
	}
	mustPut(t, s, 1, "expired", "v", Info{Deadline: 5})
	tests := map[string]struct {
		l    Listing
		want string
		more bool
	}{
		"all":           {Listing{}, "a b b\x00 bb c d", false},
		"start":         {Listing{Start: []byte("b")}, "b b\x00 bb c d", false},
		"end":           {Listing{End: []byte("bb")}, "a b b\x00", false},
		"empty end":     {Listing{End: []byte{}}, "", false},
		"range":         {Listing{Start: []byte("b"), End: []byte("c")}, "b b\x00 bb", false},
		"backwards":     {Listing{Start: []byte("c"), End: []byte("b")}, "", false},
		"after":         {Listing{After: []byte("b")}, "b\x00 bb c d", false},
		"after a gap":   {Listing{After: []byte("ba")}, "bb c d", false},
		"before start":  {Listing{Start: []byte("c"), After: []byte("a")}, "c d", false},
		"limit":         {Listing{Limit: 2}, "a b", true},
		"exact limit":   {Listing{Limit: 6}, "a b b\x00 bb c d", false},
		"budget":        {Listing{BudgetBytes: 2*EntryBytes + 2}, "a b", true},
		"tiny budget":   {Listing{BudgetBytes: 1}, "a", true},
		"partitions":    {Listing{Include: func(p uint16) bool { return p%2 == 0 }}, "b bb c", false},
		"none included": {Listing{Include: func(p uint16) bool { return p == 7 }}, "", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tt.l.Now = 5
			keys, more := list(s, tt.l)
			if got := strings.Join(keys, " "); got != tt.want || more != tt.more {
				t.Errorf("List = %q, %v; want %q, %v", got, more, tt.want, tt.more)
			}
		})
	}
	if more := s.List(Listing{Now: 5}, func(e Entry) bool { return string(e.Key) != "d" }); more {
		t.Error("stopping at the last entry says there is more")
	}
	if more := s.List(Listing{Now: 5}, func(e Entry) bool { return string(e.Key) != "c" }); !more {
		t.Error("stopping before the last entry says there is no more")
	}
}

// TestListPages lists more keys than one hold of the lock copies, the same key in several partitions too.
func TestListPages(t *testing.T) {
	s := open(t, 4<<20)
	var want []string
	for i := range 5 * listStepRecords / 2 {
		for p := range uint16(3) {
			mustPut(t, s, p, fmt.Sprintf("%04d", i), "v", Info{})
			want = append(want, fmt.Sprintf("%04d", i))
		}
	}
	if got, more := list(s, Listing{}); !slices.Equal(got, want) || more {
		t.Errorf("List has %d keys, want %d", len(got), len(want))
	}
	only := func(p uint16) bool { return p == 1 }
	var got []string
	for l := (Listing{Limit: 7, Include: only}); ; {
		keys, more := list(s, l)
		got = append(got, keys...)
		if !more {
			break
		}
		l.After = []byte(keys[len(keys)-1])
	}
	if !slices.Equal(got, slices.Compact(want)) {
		t.Errorf("pages have %d keys, want %d", len(got), len(want)/3)
	}
}

// TestListWhileWriting changes entries from inside yield: what was there all the time is listed once.
func TestListWhileWriting(t *testing.T) {
	s := open(t, 4<<20)
	const n = 3 * listStepRecords
	for i := range n {
		mustPut(t, s, 0, fmt.Sprintf("%04d", i), "v", Info{})
	}
	seen := map[string]int{}
	s.List(Listing{}, func(e Entry) bool {
		key := string(e.Key)
		seen[key]++
		if len(key) == 4 {
			mustPut(t, s, 0, key, "longer value", Info{})
			mustPut(t, s, 0, "x"+key, "v", Info{})
			mustSucceed(t, s.del(0, []byte("-"+key)))
		}
		return true
	})
	for i := range n {
		if key := fmt.Sprintf("%04d", i); seen[key] != 1 {
			t.Errorf("%q was listed %d times", key, seen[key])
		}
	}
	check(t, s)
}
