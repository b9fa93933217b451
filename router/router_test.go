package router

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/ring"
	"github.com/dramnode/dramnode/wire"
)

// table gives the even partitions to member 0 and the odd ones to member 1.
func table(partitions int) *control.Table {
	t := &control.Table{
		ClusterID: 1, Version: 3, Replicas: 1, Settings: ring.Config{Partitions: partitions},
		Members: []control.Member{{Name: "a", Incarnation: 10, Addr: "a:1"}, {Name: "b", Incarnation: 11, Addr: "b:1"}},
		Rows:    make([]control.Row, partitions),
	}
	for p := range t.Rows {
		t.Rows[p] = control.Row{Epoch: uint32(p + 1), Owner: uint16(p % 2), MoveTo: control.None, Backups: control.NoBackups}
	}
	return t
}

func view(t interface{ Fatal(...any) }, incarnation uint64) *View {
	v, err := NewView(table(8), incarnation)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// keyOf returns a key whose partition has the wanted owner.
func keyOf(v *View, owner uint16) []byte {
	for i := 0; ; i++ {
		if key := fmt.Appendf(nil, "key-%d", i); v.Table.Rows[v.Partition(key)].Owner == owner {
			return key
		}
	}
}

func TestRoute(t *testing.T) {
	for _, c := range []struct {
		self  uint64 // incarnation of the node that decides
		owner uint16
		flags uint16
		want  Action
	}{
		{10, 0, 0, Serve},
		{10, 0, wire.FlagHop, Serve},
		{10, 0, wire.FlagFence, Serve}, // whether the fence holds is the partition's to say
		{10, 0, wire.FlagHop | wire.FlagFence, Serve},
		{10, 1, 0, Forward},
		{10, 1, wire.FlagIfMatch | wire.FlagRange | wire.FlagClip, Forward},
		{10, 1, wire.FlagHop, Refuse},
		{10, 1, wire.FlagFence, Refuse},
		{10, 1, wire.FlagHop | wire.FlagFence, Refuse},
		{11, 1, 0, Serve},
		{11, 0, 0, Forward},
		{12, 0, 0, Forward}, // not a member
		{12, 0, wire.FlagHop, Refuse},
	} {
		v := view(t, c.self)
		key := keyOf(v, c.owner)
		d := v.Route(&wire.Header{Kind: wire.KindGet, Flags: c.flags, Key: key})
		if d.Action != c.want || d.Partition != v.Partition(key) || d.Row != &v.Table.Rows[d.Partition] {
			t.Errorf("%+v: %+v, want action %d", c, d, c.want)
		}
	}
}

// TestRelay: a relayed request is forwarded by the row of its fence, once.
func TestRelay(t *testing.T) {
	v := view(t, 10)
	key := keyOf(v, 1)
	epoch := v.Table.Rows[v.Partition(key)].Epoch
	const relay = wire.FlagFence | wire.FlagRelay
	for _, c := range []struct {
		flags uint16
		epoch uint32
		want  Action
	}{
		{relay, epoch, Forward},
		{relay, epoch - 1, Refuse},
		{relay, epoch + 1, Refuse},
		{relay | wire.FlagHop, epoch, Refuse},
		{wire.FlagFence, epoch, Refuse},
	} {
		if d := v.Route(&wire.Header{Kind: wire.KindPut, Flags: c.flags, Epoch: c.epoch, Key: key}); d.Action != c.want {
			t.Errorf("%+v in epoch %d: action %d", c, epoch, d.Action)
		}
	}
}

// TestBackupsAnswerGets and nothing else.
func TestBackupsAnswerGets(t *testing.T) {
	replicated := table(8)
	replicated.Replicas = 2
	for p := range replicated.Rows {
		replicated.Rows[p].Backups[0] = 1 - replicated.Rows[p].Owner
	}
	v, err := NewView(replicated, 11)
	if err != nil {
		t.Fatal(err)
	}
	outsider, err := NewView(replicated, 12)
	if err != nil {
		t.Fatal(err)
	}
	for kind := wire.KindGet; kind <= wire.KindDeleteRange; kind++ {
		h := wire.Header{Kind: kind, Key: keyOf(v, 0)}
		want := Forward
		if kind == wire.KindGet {
			want = Serve
		}
		if d := v.Route(&h); d.Action != want {
			t.Errorf("kind %d at a backup: action %d, want %d", kind, d.Action, want)
		}
		if d := outsider.Route(&h); d.Action != Forward {
			t.Errorf("kind %d at a stranger: action %d", kind, d.Action)
		}
	}
}

func TestNewViewRefusesBadSettings(t *testing.T) {
	bad := table(8)
	bad.Settings.Partitions = -1
	if _, err := NewView(bad, 10); err == nil {
		t.Error("a view of a table with bad settings")
	}
}

// TestRequestsCrossOneNodeAtMost is what keeps two nodes that disagree from sending a request in a circle.
func TestRequestsCrossOneNodeAtMost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := view(t, rapid.Uint64Range(10, 12).Draw(t, "self"))
		h := wire.Header{
			Kind: wire.Kind(rapid.IntRange(1, 6).Draw(t, "kind")), Flags: rapid.Uint16().Draw(t, "flags"),
			Epoch: rapid.Uint32().Draw(t, "epoch"), Key: rapid.SliceOfN(rapid.Byte(), 1, 20).Draw(t, "key"),
		}
		d := v.Route(&h)
		if d.Action == Forward && h.Flags&wire.FlagHop != 0 {
			t.Fatalf("%+v is forwarded again", h)
		}
		if d.Action == Forward && h.Flags&wire.FlagFence != 0 && (h.Flags&wire.FlagRelay == 0 || h.Epoch != d.Row.Epoch) {
			t.Fatalf("%+v is forwarded by %+v", h, d.Row)
		}
		if (d.Action == Serve) != (d.Row.Owner == v.Self) { // nobody is a backup here
			t.Fatalf("%+v with owner %d at %d", d, d.Row.Owner, v.Self)
		}
	})
}
