package gossip

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/dramnode/dramnode"
)

func fullMeta() Meta {
	return Meta{Name: "node-1", Incarnation: 0xabc, Addr: "127.0.0.1:12345", HTTP: "127.0.0.1:12347", Zone: "rack-1", Version: "v1",
		Settings: 1 << 63, ClusterID: 2, TableVersion: 3}
}

func TestMetaRoundTrip(t *testing.T) {
	longest := fullMeta()
	longest.Zone, longest.Version = "", ""
	empty, err := longest.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	room := MaxMetaBytes - len(empty)
	longest.Zone, longest.Version = strings.Repeat("z", 255), strings.Repeat("v", room-255)
	for _, m := range []Meta{fullMeta(), {Name: "a", Incarnation: 1}, longest} {
		b, err := m.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := ParseMeta(b); back != m || err != nil {
			t.Errorf("%+v became %+v, %v", m, back, err)
		}
	}
	longest.Version += "v"
	if _, err := longest.Append(nil); !errors.Is(err, dramnode.ErrInvalid) || !strings.Contains(err.Error(), "513 bytes") {
		t.Errorf("a meta of 513 bytes: %v, want ErrInvalid", err)
	}
}

func TestMetaCoversEveryField(t *testing.T) {
	var m Meta
	if got, want := len(m.texts())+len(m.numbers()), reflect.TypeOf(m).NumField(); got != want {
		t.Errorf("the codec has %d fields, Meta %d", got, want)
	}
}

func TestMetaRefuses(t *testing.T) {
	for name, change := range map[string]func(*Meta){
		"no name":        func(m *Meta) { m.Name = "" },
		"long name":      func(m *Meta) { m.Name = strings.Repeat("n", MaxNameBytes+1) },
		"no incarnation": func(m *Meta) { m.Incarnation = 0 },
		"not text":       func(m *Meta) { m.Zone = "\xff" },
		"long field":     func(m *Meta) { m.Zone = strings.Repeat("z", 256) },
	} {
		m := fullMeta()
		change(&m)
		if _, err := m.Append(nil); !errors.Is(err, dramnode.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
}

func FuzzParseMeta(f *testing.F) {
	b, err := fullMeta().Append(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:len(b)-1])
	f.Add(append(b, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseMeta(b)
		if err != nil {
			if !errors.Is(err, dramnode.ErrInvalid) || m != (Meta{}) {
				t.Errorf("%+v, %v: want nothing and ErrInvalid", m, err)
			}
			return
		}
		if again, err := m.Append(nil); err != nil || !bytes.Equal(again, b) {
			t.Errorf("re-encoded meta is %x, %v, want %x", again, err, b)
		}
	})
}

func TestConfigNamesEveryFault(t *testing.T) {
	c := Config{
		Bind: "0.0.0.0:70000", Advertise: "nowhere", Seeds: []string{"a", ":1"}, Key: []byte{},
		Profile: Timing{ProbeInterval: time.Millisecond, SuspicionMult: -1},
	}
	_, err := New(c)
	if !errors.Is(err, dramnode.ErrInvalid) {
		t.Fatalf("New: %v, want ErrInvalid", err)
	}
	for _, want := range []string{"name", "bind address", "advertised", `"a"`, `":1"`, "key is empty", "cluster's name", "negative", "probe timeout"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %q:\n%v", want, err)
		}
	}
	for _, bind := range []string{"0.0.0.0:1", ":1", "[::]:1"} {
		c := Config{Meta: fullMeta(), Bind: bind, Cluster: "c"}
		if _, err := New(c); !errors.Is(err, dramnode.ErrInvalid) {
			t.Errorf("binding to %s: %v, want ErrInvalid", bind, err)
		}
		c.Advertise = "127.0.0.1:1"
		if _, err := New(c); err != nil {
			t.Errorf("binding to %s with an address to advertise: %v", bind, err)
		}
	}
}

func TestLogLevels(t *testing.T) {
	for line, want := range map[string]struct {
		level zerolog.Level
		text  string
	}{
		"[DEBUG] memberlist: a\n":                               {zerolog.DebugLevel, "a"},
		"[INFO] memberlist: a":                                  {zerolog.InfoLevel, "a"},
		"[WARN] memberlist: a":                                  {zerolog.WarnLevel, "a"},
		"[WARN] memberlist: ignoring alive message for 'a': no": {zerolog.DebugLevel, "ignoring alive message for 'a': no"},
		"[ERR] Failed [x] a":                                    {zerolog.ErrorLevel, "Failed [x] a"},
		"Err: a":                                                {zerolog.InfoLevel, "Err: a"},
	} {
		if level, text := parseLine(line); level != want.level || text != want.text {
			t.Errorf("%q is %q at %v, want %q at %v", line, text, level, want.text, want.level)
		}
	}
}

func tableMember(i int, alive bool, since time.Time) Member {
	return Member{Meta: Meta{Name: fmt.Sprint("n", i), Incarnation: 1}, Alive: alive, Since: since, GossipAddr: fmt.Sprint("addr", i)}
}

func TestTableIsBounded(t *testing.T) {
	table, now := newTable(), time.Now()
	for i := range 2 * maxMembers {
		table.put(tableMember(i, i%2 == 0, now.Add(time.Duration(i))))
	}
	if len(table.members) != maxMembers || len(table.seen) != maxRemembered {
		t.Errorf("%d members, %d addresses, want %d and %d", len(table.members), len(table.seen), maxMembers, maxRemembered)
	}
	if last := fmt.Sprint("addr", 2*maxMembers-1); table.seen[last].IsZero() {
		t.Errorf("the latest address was forgotten")
	}
	if !table.full() {
		t.Error("a table of living members has room")
	}
}

func TestTableForgetsTheDead(t *testing.T) {
	table, now := newTable(), time.Now()
	table.put(tableMember(1, false, now.Add(-forgetAfter)))
	table.put(tableMember(2, false, now))
	table.put(tableMember(3, true, now.Add(-2*forgetAfter)))
	if !table.forget(now.Add(-time.Second)) || table.forget(now.Add(-time.Second)) {
		t.Error("forget does not report what it forgot")
	}
	ours, _ := table.split(0)
	if len(ours) != 2 || ours[0].Name != "n2" || ours[1].Name != "n3" || len(table.seen) != 3 {
		t.Errorf("left are %+v, and addresses %v", ours, table.seen)
	}
}

func TestTableKeepsSince(t *testing.T) {
	table, now := newTable(), time.Now()
	m := tableMember(1, true, now)
	if !table.put(m) {
		t.Error("a new member is no news")
	}
	if m.Since = now.Add(time.Second); table.put(m) {
		t.Error("the same again is news")
	}
	if m.TableVersion = 9; !table.put(m) || !table.members["n1#1"].Since.Equal(now) {
		t.Errorf("an update made it %+v", table.members["n1#1"])
	}
	if m.Alive = false; !table.put(m) || !table.members["n1#1"].Since.Equal(now.Add(time.Second)) {
		t.Errorf("death made it %+v", table.members["n1#1"])
	}
}

// TestAwaitLabelled shows that goroutines are found by the label of the one that started them.
func TestAwaitLabelled(t *testing.T) {
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		setLabel(t.Name())
		go func() {
			<-end
			close(done)
		}()
	}()
	for labelled(t.Name()) != 1 { // the parent may still run
	}
	if left := awaitLabelled(t.Name(), time.Millisecond); left != 1 {
		t.Errorf("%d goroutines are left, want 1", left)
	}
	close(end)
	<-done
	if left := awaitLabelled(t.Name(), patience); left != 0 {
		t.Errorf("%d goroutines are left, want 0", left)
	}
}
