package control

import (
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/dramnode/dramnode/ring"
)

var update = flag.Bool("update", false, "rewrite the golden files; read the difference before you keep it")

// sample is a table that uses every field.
func sample() *Table {
	return &Table{
		ClusterID: 0x1122334455667788, Version: 7, MaxValue: 64 << 20, Replicas: 3,
		Settings: ring.Config{Partitions: 4},
		Members: []Member{
			{Name: "a", Incarnation: 0xA1, Addr: "10.0.0.1:12345", Zone: "z1", JoinSeq: 1},
			{Name: "b", Incarnation: 0xB2, Addr: "10.0.0.2:12345", JoinSeq: 3, Leaving: true},
			{Name: "c", Incarnation: 0xC3, Addr: "[::1]:12345", Zone: "z2", JoinSeq: 3},
		},
		Rows: []Row{
			{Epoch: 1, Owner: 0, MoveTo: None, Backups: NoBackups},
			{Epoch: 2, Owner: 1, MoveTo: 2, MoveID: 6, Losses: 1, Backups: NoBackups},
			{Epoch: math.MaxInt32, Owner: 2, MoveTo: None, Backups: [MaxReplicas - 1]uint16{0, 1, None, None}},
			{Epoch: 9, Owner: 1, MoveTo: 0, MoveID: 7, Losses: 4, Backups: NoBackups},
		},
	}
}

func TestGolden(t *testing.T) {
	for name, b := range map[string][]byte{
		"table": sample().Append(nil),
		"row":   AppendRow(nil, sample().Rows[3]),
	} {
		path := filepath.Join("testdata", name+".hex")
		if *update {
			if err := os.WriteFile(path, []byte(hex.EncodeToString(b)+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(b); got != strings.TrimSpace(string(want)) {
			t.Errorf("%s is encoded as\n%s, want\n%s", name, got, want)
		}
	}
}

func TestTableRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawTable(t)
		got, err := ParseTable(want.Append([]byte("before"))[len("before"):])
		if err != nil {
			t.Fatalf("%+v: %v", want, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("parsed %+v, want %+v", got, want)
		}
	})
}

func drawTable(t *rapid.T) *Table {
	id := rapid.Uint64Range(1, math.MaxUint64)
	n := rapid.IntRange(1, 5).Draw(t, "members")
	table := &Table{
		ClusterID: id.Draw(t, "cluster"), Version: id.Draw(t, "version"),
		MaxValue: rapid.Uint32().Draw(t, "max"), Replicas: uint8(rapid.IntRange(1, MaxReplicas).Draw(t, "replicas")), Settings: ring.Config{Partitions: rapid.IntRange(1, 9).Draw(t, "partitions")},
	}
	for i := range n {
		table.Members = append(table.Members, Member{
			Name: fmt.Sprintf("n%d%s", i, rapid.StringN(0, 8, 32).Draw(t, "name")), Incarnation: uint64(i) + 1,
			Addr: "h" + rapid.StringN(0, 9, 40).Draw(t, "addr"), Zone: rapid.StringN(0, 9, 40).Draw(t, "zone"),
			JoinSeq: uint64(i), Leaving: rapid.Bool().Draw(t, "leaving"),
		})
	}
	table.Rows = make([]Row, table.Settings.Count())
	for p := range table.Rows {
		owner := rapid.IntRange(0, n-1).Draw(t, "owner")
		r := Row{Epoch: rapid.Uint32Range(1, math.MaxInt32).Draw(t, "epoch"), Owner: uint16(owner), MoveTo: None, Losses: rapid.Uint32().Draw(t, "losses"), Backups: NoBackups}
		if n > 1 && rapid.Bool().Draw(t, "moves") {
			r.MoveTo, r.MoveID = uint16((owner+1)%n), id.Draw(t, "move")
		}
		for i := range rapid.IntRange(0, max(0, n-2)).Draw(t, "backups") {
			r.Backups[i] = uint16((owner + 2 + i) % n)
		}
		table.Rows[p] = r
	}
	return table
}

func TestValidate(t *testing.T) {
	if err := sample().Validate(); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 300)
	for name, spoil := range map[string]func(*Table){
		"no cluster":              func(t *Table) { t.ClusterID = 0 },
		"version 0":               func(t *Table) { t.Version = 0 },
		"bad settings":            func(t *Table) { t.Settings.Partitions = -1 },
		"too few rows":            func(t *Table) { t.Rows = t.Rows[:3] },
		"too many rows":           func(t *Table) { t.Rows = append(t.Rows, t.Rows[0]) },
		"no members":              func(t *Table) { t.Members = nil },
		"two of one name":         func(t *Table) { t.Members[2].Name = "a" },
		"two of one incarnation":  func(t *Table) { t.Members[2].Incarnation = 0xA1 },
		"no name":                 func(t *Table) { t.Members[0].Name = "" },
		"long name":               func(t *Table) { t.Members[0].Name = long },
		"no address":              func(t *Table) { t.Members[0].Addr = "" },
		"long address":            func(t *Table) { t.Members[0].Addr = long },
		"long zone":               func(t *Table) { t.Members[0].Zone = long },
		"no incarnation":          func(t *Table) { t.Members[0].Incarnation = 0 },
		"members out of order":    func(t *Table) { t.Members[0].JoinSeq = 4 },
		"names out of order":      func(t *Table) { t.Members[1].Name = "d" },
		"owner beyond members":    func(t *Table) { t.Rows[0].Owner = 3 },
		"no owner":                func(t *Table) { t.Rows[0].Owner = None },
		"target beyond members":   func(t *Table) { t.Rows[1].MoveTo = 3 },
		"move to the owner":       func(t *Table) { t.Rows[1].MoveTo = 1 },
		"move without id":         func(t *Table) { t.Rows[1].MoveID = 0 },
		"id without move":         func(t *Table) { t.Rows[0].MoveID = 1 },
		"too many replicas":       func(t *Table) { t.Replicas = MaxReplicas + 1 },
		"no replicas":             func(t *Table) { t.Replicas = 0 },
		"backup beyond members":   func(t *Table) { t.Rows[0].Backups[0] = 3 },
		"the owner as backup":     func(t *Table) { t.Rows[0].Backups[0] = 0 },
		"the target as backup":    func(t *Table) { t.Rows[1].Backups[0] = 2 },
		"a backup twice":          func(t *Table) { t.Rows[2].Backups[1] = 0 },
		"a gap between backups":   func(t *Table) { t.Rows[2].Backups[0] = None },
		"epoch 0":                 func(t *Table) { t.Rows[0].Epoch = 0 },
		"epoch with the sign bit": func(t *Table) { t.Rows[0].Epoch = math.MaxInt32 + 1 },
	} {
		bad := sample()
		spoil(bad)
		if err := bad.Validate(); !errors.Is(err, ErrTable) {
			t.Errorf("%s: %v, want an ErrTable", name, err)
		}
		if _, err := ParseTable(bad.Append(nil)); err == nil {
			t.Errorf("%s: parsed", name)
		}
	}
}

// TestShortened cuts each message at every length: no prefix may pass for a whole.
func TestShortened(t *testing.T) {
	whole := sample().Append(nil)
	for n := range whole {
		if _, err := ParseTable(whole[:n]); !errors.Is(err, ErrTable) {
			t.Fatalf("the first %d of %d bytes: %v", n, len(whole), err)
		}
	}
	if _, err := ParseTable(append(whole, 0)); !errors.Is(err, ErrTable) {
		t.Errorf("a byte too many: %v", err)
	}
}

func FuzzParseTable(f *testing.F) {
	f.Add(sample().Append(nil))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		table, err := ParseTable(b)
		if err != nil {
			return
		}
		if again, err := ParseTable(table.Append(nil)); err != nil || !reflect.DeepEqual(again, table) {
			t.Errorf("%+v became %+v, %v", table, again, err)
		}
	})
}
