package group

import (
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/dramnode/dramnode/control/leader"
	"github.com/dramnode/dramnode/control/lease"
	"github.com/dramnode/dramnode/control/state"
)

var update = flag.Bool("update", false, "rewrite the golden file; read the difference before you keep it")

// everything has a message of each kind.
func everything() []Message {
	node := state.Node{Incarnation: 5, Name: "e", Addr: "e:1", Zone: "z", Status: state.Up}
	all := []Message{
		{Kind: KindRaft, Raft: []byte{1, 2, 3}},
		{Kind: KindRenew, Renewal: lease.Renewal{Node: 1, Era: 2, Applied: 3, Sent: 4}},
		{Kind: KindGrant, Grant: lease.Grant{Era: 1, Sent: 2, Length: 3, Table: []byte{4}}},
		{Kind: KindAsk, Ask: leader.Ask{Kind: leader.AskPromote, From: 1, Partition: 2, Epoch: 3, Peer: 4, AssignID: 5}},
		{Kind: KindAsk, Ask: leader.Ask{Kind: leader.AskJoin, From: 5, Node: node, Params: state.DefaultParams()}, Settings: []byte{6}, MaxValue: 7, Lease: 8},
		{Kind: KindAsk, Ask: leader.Ask{Kind: leader.AskParams, AssignID: 5, Params: state.DefaultParams()}},
		{Kind: KindRefuse, Text: "no"},
		{Kind: KindUsage, Usage: []Usage{{1, 2}, {3, 4}}},
		{Kind: KindTable, Table: []byte{9}},
		{Kind: KindHello, Hello: Hello{Reply: true, Blank: true, Grants: 3, Name: "a", Asked: "b:1", Version: 7, Sent: 8}},
		{Kind: KindSeal, Seal: Seal{Step: SealFound, Era: 2, Sent: 3, Table: []byte{1}, Voters: []state.Incarnation{1, 2}}},
		{Kind: KindAsks, Asks: []leader.Ask{
			{Kind: leader.AskActivate, From: 2, Partition: 1, Epoch: 7}, {Kind: leader.AskReport, From: 2, Partition: 3, Epoch: 8, Peer: 4, AssignID: 5},
		}},
	}
	for i := range all {
		all[i].Cluster, all[i].Era, all[i].From, all[i].To, all[i].Reply = 11, 1, 2, 3, "c:1"
	}
	return all
}

func TestMessages(t *testing.T) {
	var golden []byte
	for _, m := range everything() {
		b := m.Append(nil)
		golden = append(golden, hex.Dump(b)...)
		got, err := ParseMessage(b)
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%+v came back as %+v, %v", m, got, err)
		}
		for n := range b {
			if cut, err := ParseMessage(b[:n]); err == nil && reflect.DeepEqual(cut, m) {
				t.Errorf("%+v came back from %d of %d bytes", m, n, len(b))
			}
		}
	}
	file := filepath.Join("testdata", "messages.hex")
	if *update {
		if err := os.WriteFile(file, golden, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(golden) != string(want) {
		t.Errorf("messages are encoded as\n%swant\n%s", golden, want)
	}
}

func TestParseMessageRefuses(t *testing.T) {
	ok := everything()[0]
	for name, b := range map[string][]byte{
		"nothing":        nil,
		"another layout": {9, byte(KindRaft)},
		"another kind":   append([]byte{codecVersion, 99}, ok.Append(nil)[2:]...),
		"from nobody":    (&Message{Kind: KindRefuse}).Append(nil),
		"more behind":    append(everything()[1].Append(nil), 0),
	} {
		if _, err := ParseMessage(b); !errors.Is(err, ErrMessage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseMessage(f *testing.F) {
	for _, m := range everything() {
		f.Add(m.Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseMessage(b)
		if err != nil {
			return
		}
		again, err := ParseMessage(m.Append(nil))
		if err != nil || !reflect.DeepEqual(again, m) {
			t.Fatalf("%+v came back as %+v, %v", m, again, err)
		}
	})
}

// FuzzStep: whatever comes in, a member goes on or ends with an error.
func FuzzStep(f *testing.F) {
	for _, m := range everything() {
		m.Cluster, m.To = 0, 0
		f.Add(m.Append(nil))
	}
	w := cluster(f, 1, 3)
	p := w.procs["a"]
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseMessage(b)
		if err != nil || p.Err() != nil {
			return
		}
		if m.Cluster == 0 {
			m.Cluster = p.cluster
		}
		p.Step(w.clock(p), m)
		p.Take()
		if s := p.Table(); s.Validate() != nil {
			t.Fatalf("%+v made the table invalid: %v", m, s.Validate())
		}
	})
}
