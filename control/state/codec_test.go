package state

import (
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/dramnode/dramnode/ring"
)

var update = flag.Bool("update", false, "rewrite the golden files; read the difference before you keep it")

// everything has a command of each kind.
func everything() []Command {
	return []Command{
		Join{Node: Node{Incarnation: 0x1122334455667788, Name: "d", Addr: "d:7000", Zone: "east", Witness: true, Status: Up}, Replaces: 3},
		Suspend{1}, Return{2}, Leave{3}, Retire{4}, Assign{1, 10, 4, 2}, Promote{1, 10, 11, 5}, Activate{300, 12, 1},
		Reconfigure{1, 12, 1 << 20, 1, []Incarnation{1, 2}}, DeclareLost{2, 3, 4, 5}, AcceptLoss{6, 7}, Know{9}, SetParams{8, DefaultParams()},
	}
}

func TestGolden(t *testing.T) {
	s := must(t, three(t), Assign{1, 10, 0, 2}, Suspend{3}, Reconfigure{0, 12, 13, 1, []Incarnation{1, 2}})
	lost := must(t, s, Suspend{1}, Retire{1}, DeclareLost{2, 10, 40, 2})
	for name, b := range map[string][]byte{
		"full": s.Append(nil), "delta": lost.Delta(s.Version), "nothing": s.Delta(s.Version), "batch": AppendBatch(nil, everything()),
	} {
		file := filepath.Join("testdata", name+".hex")
		got := hex.Dump(b)
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s is encoded as\n%swant\n%s", name, got, want)
		}
	}
}

func TestBatchKeepsEverything(t *testing.T) {
	want := everything()
	got, err := ParseBatch(AppendBatch(nil, want))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%#v, %v", got, err)
	}
}

func TestSizes(t *testing.T) {
	s := Found(7, ring.Config{}, 1<<20, DefaultParams(), node(1, "a"), 1<<30)
	if full, nothing := len(s.Append(nil)), len(s.Delta(s.Version)); full > 20<<10 || nothing > 32 {
		t.Errorf("%d partitions take %d bytes, no change %d", len(s.Rows), full, nothing)
	}
}

func TestMergeRefuses(t *testing.T) {
	s := three(t)
	other := Found(8, ring.Config{Partitions: 4}, 1<<20, DefaultParams(), node(1, "a"), 10)
	era := *s
	era.Era++
	for _, c := range []struct {
		name string
		s    *State
		b    []byte
		want error
	}{
		{"whole state of another cluster", s, other.Append(nil), ErrCluster},
		{"delta of another cluster", s, other.Delta(1), ErrCluster},
		{"delta for nothing", nil, s.Delta(1), ErrMalformed},
		{"delta of another era", s, era.Delta(1), ErrGap},
		{"a cut one", s, s.Append(nil)[:40], ErrMalformed},
		{"one with more behind", s, append(s.Append(nil), 0), ErrMalformed},
		{"nothing", s, nil, ErrMalformed},
		{"a batch", s, AppendBatch(nil, nil), ErrMalformed},
		{"another layout", s, []byte{9, byte(kindDelta)}, ErrMalformed},
	} {
		if _, err := c.s.Merge(c.b); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	if got, err := s.Merge(era.Append(nil)); err != nil || got.Era != 2 {
		t.Errorf("a later era: %v, %v", got, err)
	}
	if got, err := era.Merge(s.Append(nil)); err != nil || got != &era {
		t.Errorf("an earlier era: %v, %v", got, err)
	}
}

func TestValidate(t *testing.T) {
	for want, damage := range map[string]func(*State){
		"version 0":     func(s *State) { s.Version = 0 },
		"for 4 part":    func(s *State) { s.Rows = s.Rows[:3] },
		"out of order":  func(s *State) { s.Nodes[0], s.Nodes[1] = s.Nodes[1], s.Nodes[0] },
		"called \"a\"":  func(s *State) { s.Nodes[1].Name = "a" },
		"epoch 0":       func(s *State) { s.Rows[0].Epoch, s.Rows[0].ActEpoch = 0, 0 },
		"primary 9":     func(s *State) { s.Rows[0].Primary = 9 },
		"of activated":  func(s *State) { s.Rows[0].Sync = []Incarnation{1, 2, 3, 4} },
		"active with":   func(s *State) { s.Rows[0].ActSync = []Incarnation{1, 2, 3, 4} },
		"no node":       func(s *State) { s.Nodes = s.Nodes[:2] },
		"learner 2 by":  func(s *State) { s.Rows[1].Learner = 2 },
		"losses":        func(s *State) { s.Rows[0].LossAccepted = 1 },
		"versions":      func(s *State) { s.Rows[0].Modified = 99 },
		"voters = 4":    func(s *State) { s.Params.Voters = 4 },
		"minSync = 4":   func(s *State) { s.Params.MinSync = 4 },
		"forget after":  func(s *State) { s.Params.ForgetAfter = 0 },
		"budget":        func(s *State) { s.Params.RebuildBudget = 0 },
		"address of":    func(s *State) { s.Nodes[2].Addr = "" },
		"status(7)":     func(s *State) { s.Nodes[2].Status = 7 },
		"moves per":     func(s *State) { s.Params.MovesPerNode = 0 },
		"on loss = 200": func(s *State) { s.Params.OnLoss = 200 },
	} {
		s := three(t).clone()
		damage(s)
		if err := s.Validate(); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error with %q", err, want)
		}
	}
}

func FuzzMerge(f *testing.F) {
	s := three(f)
	f.Add(s.Append(nil))
	f.Add(must(f, s, Suspend{1}, Assign{1, 10, 0, 2}).Delta(s.Version))
	f.Fuzz(func(t *testing.T, b []byte) {
		next, err := s.Merge(b)
		if err != nil {
			return
		}
		if err := next.Validate(); err != nil {
			t.Fatalf("accepted an invalid state: %v", err)
		}
		again, err := Parse(next.Append(nil))
		if err != nil || !reflect.DeepEqual(again, next) {
			t.Fatalf("%+v came back as %+v, %v", next, again, err)
		}
	})
}

func FuzzBatch(f *testing.F) {
	f.Add(AppendBatch(nil, everything()))
	f.Fuzz(func(t *testing.T, b []byte) {
		batch, err := ParseBatch(b)
		if err != nil {
			return
		}
		again, err := ParseBatch(AppendBatch(nil, batch))
		if err != nil || !reflect.DeepEqual(again, batch) {
			t.Fatalf("%#v came back as %#v, %v", batch, again, err)
		}
		next, _ := three(t).Apply(batch)
		if err := next.Validate(); err != nil {
			t.Fatalf("after %#v: %v", batch, err)
		}
	})
}
