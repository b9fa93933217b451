package node

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/control/state"
	"github.com/dramnode/dramnode/ring"
)

func TestProjection(t *testing.T) {
	one := state.Node{Incarnation: 30, Name: "a", Addr: "a:1", Zone: "z"}
	s := state.Found(7, ring.Config{Partitions: 4}, 1<<20, state.DefaultParams(), one, 1000)
	s.Era, s.Version = 2, 9
	s.Nodes = []state.Node{
		{Incarnation: 10, Name: "b", Addr: "b:1", Status: state.Leaving, Joined: 5},
		{Incarnation: 20, Name: "c", Addr: "c:1", Status: state.Suspended, Joined: 6},
		s.Nodes[0],
		{Incarnation: 40, Name: "d", Addr: "d:1", Status: state.Gone, Joined: 2},
		{Incarnation: 50, Name: "d", Addr: "d:2", Status: state.Up, Joined: 7},
	}
	all := []state.Incarnation{10, 20, 30}
	row := state.Row{Epoch: 5, Primary: 30, Sync: all, ActSync: all, ActEpoch: 5, LossCount: 2, Doubts: 1}
	s.Rows[0] = row
	s.Rows[1] = row
	s.Rows[1].Learner, s.Rows[1].AssignID = 50, 8
	s.Rows[2] = row
	s.Rows[2].Primary, s.Rows[2].Sync = 40, []state.Incarnation{40} // gone: somebody of the activated set stands there
	s.Rows[3] = row
	s.Rows[3].Primary, s.Rows[3].Sync, s.Rows[3].ActSync = 40, []state.Incarnation{40}, []state.Incarnation{40}

	table := project(s)
	if err := table.Validate(); err != nil {
		t.Fatal(err)
	}
	if table.Version != 2<<40|9 || table.Replicas != 3 || table.ClusterID != 7 {
		t.Errorf("%+v", table)
	}
	members := []control.Member{
		{Name: "a", Incarnation: 30, Addr: "a:1", Zone: "z", JoinSeq: 1},
		{Name: "b", Incarnation: 10, Addr: "b:1", JoinSeq: 5, Leaving: true},
		{Name: "c", Incarnation: 20, Addr: "c:1", JoinSeq: 6},
		{Name: "d", Incarnation: 50, Addr: "d:2", JoinSeq: 7},
	}
	if !slices.Equal(table.Members, members) {
		t.Errorf("members %+v, want %+v", table.Members, members)
	}
	none := control.None
	rows := []control.Row{
		{Epoch: 5, Owner: 0, MoveTo: none, Losses: 3, Backups: [4]uint16{1, none, none, none}}, // c is suspended
		{Epoch: 5, Owner: 0, MoveTo: 3, MoveID: 8, Losses: 3, Backups: [4]uint16{1, none, none, none}},
		{Epoch: 5, Owner: 1, MoveTo: none, Losses: 3, Backups: control.NoBackups},
		{Epoch: 5, Owner: 0, MoveTo: none, Losses: 3, Backups: control.NoBackups},
	}
	if !slices.Equal(table.Rows, rows) {
		t.Errorf("rows %+v, want %+v", table.Rows, rows)
	}
	for i := range s.Nodes {
		s.Nodes[i].Status = state.Gone
	}
	if project(s) != nil {
		t.Error("a table without members")
	}
}

// TestProjectionsAreValid whatever happens to the nodes that rows name.
func TestProjectionsAreValid(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 9).Draw(t, "nodes")
		s := state.Found(7, ring.Config{Partitions: 9}, 1<<20, state.DefaultParams(), state.Node{Incarnation: 1, Name: "n1", Addr: "n1:1"}, 1000)
		for i := 2; i <= n; i++ {
			s.Nodes = append(s.Nodes, state.Node{
				Incarnation: state.Incarnation(i), Name: fmt.Sprintf("n%d", i), Addr: "x:1", Joined: uint64(i),
				Status: state.Status(rapid.IntRange(1, 4).Draw(t, "status")),
			})
		}
		anybody := rapid.Custom(func(t *rapid.T) state.Incarnation { return state.Incarnation(rapid.IntRange(1, n+1).Draw(t, "node")) })
		set := func(what string) []state.Incarnation {
			drawn := rapid.SliceOfN(anybody, 1, 8).Draw(t, what)
			slices.Sort(drawn)
			return slices.Compact(drawn)
		}
		for p := range s.Rows {
			r := &s.Rows[p]
			r.Sync, r.ActSync = set("sync"), set("activated")
			r.Primary = rapid.SampledFrom(r.Sync).Draw(t, "primary")
			if l := anybody.Draw(t, "learner"); !state.Has(r.Sync, l) {
				r.Learner, r.AssignID = l, 3
			}
		}
		if err := project(s).Validate(); err != nil {
			t.Fatal(err)
		}
	})
}
