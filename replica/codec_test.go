package replica_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/replica"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/wire"
)

var update = flag.Bool("update", false, "rewrite the golden file; read the difference before you keep it")

var envelope = replica.Envelope{Cluster: 0x1122334455667788, Era: 2, Partition: 513}

// everything has a message of each kind, and more where kinds have several shapes.
func everything() []replica.Message {
	key := []byte("key")
	origin := replica.Origin{Client: 1, Counter: 2, FirstUnacked: 3}
	value := replica.Value{Bytes: 5, CRC: wire.Checksum([]byte("value"))}
	r := row(7, 2)
	r.Learner, r.AssignID, r.Modified, r.ActEpoch, r.LossCount, r.Doubts, r.LossAccepted = 5, 6, 8, 7, 2, 1, 3
	named := []replica.Item{
		{Key: []byte("a"), Version: replica.Copy{Gen: 1, Value: value, TTL: 4}, Pending: 2},
		{Key: []byte(""), Version: replica.Copy{Gen: 3, Deleted: true}},
	}
	all := []replica.Message{
		{Kind: replica.Prepare, Key: key, Gen: 9, Stages: 2, Version: replica.Copy{Gen: 9, Carried: true, Value: value, TTL: 100, Origin: origin}},
		{Kind: replica.Prepare, Key: key, Gen: 9, Staged: 4, Stages: 2, Version: replica.Copy{Gen: 9, Value: value, Origin: origin}},
		{Kind: replica.Prepare, Key: key, Gen: 9, Version: replica.Copy{Gen: 9, Same: 8, Value: value}},
		{Kind: replica.Prepare, Key: []byte{}, Gen: 9, Version: replica.Copy{Gen: 9, Deleted: true, Origin: origin}},
		{Kind: replica.Ack, Gen: 9, Assign: 12, Used: 93},
		{Kind: replica.Need, Gen: 9, Number: 3},
		{Kind: replica.Commit, Key: key, Gen: 9},
		{Kind: replica.CommitAck, Gen: 9},
		{Kind: replica.Floor, Stages: 3},
		{Kind: replica.Floored, Gen: 5, Stages: 3, Used: 100, Crowded: true},
		{Kind: replica.Stage, Key: key, Staged: 4, Stages: 3, Version: replica.Copy{Carried: true, Value: value}},
		{Kind: replica.StageAck, Staged: 4},
		{Kind: replica.StageRefuse, Staged: 4},
		{Kind: replica.Query, Key: key, Number: 3},
		{Kind: replica.Answer, Gen: 9, Number: 3},
		{Kind: replica.Seal, Row: r},
		{Kind: replica.Sealed, Items: []replica.Item{{Key: key, Pending: 2}}},
		{Kind: replica.Sealed},
		{Kind: replica.Sync, Key: key, Number: 3, Base: replica.Copy{Gen: 4, Carried: true, Value: value, TTL: 7}, Version: replica.Copy{Gen: 9, Deleted: true, Origin: origin}},
		{Kind: replica.SyncAck, Number: 3},
		{Kind: replica.Chunk, Assign: 12, Stages: 3, Page: replica.Page{Part: replica.PartMemory, From: 1, Next: 2, End: true}, Memory: []replica.Memo{{Origin: origin, Gen: 9, Age: 5}}},
		{Kind: replica.Chunk, Assign: 12, Page: replica.Page{Part: replica.PartNames, From: 1, Next: 1 << 63, AsOf: 99}, Items: named},
		{Kind: replica.ChunkAck, Assign: 12, Page: replica.Page{Part: replica.PartHeld, Next: 3}, Items: named[:1]},
		{Kind: replica.Fill, Key: key, Assign: 12, Version: replica.Copy{Gen: 9, Carried: true, Value: value}},
		{Kind: replica.Filled, Assign: 12, Gen: 9},
	}
	for i := range all {
		all[i].From, all[i].To, all[i].Epoch, all[i].Floor = 2, 3, 7, 8
	}
	return all
}

// encode returns a message's header and, if it has one, its list.
func encode(m *replica.Message) (header, list []byte) {
	list = m.AppendList(nil)
	return m.AppendHeader(nil, envelope, list), list
}

// decode is the inverse.
func decode(header, list []byte) (e replica.Envelope, m replica.Message, err error) {
	h, err := wire.ParseHeader(header)
	if err != nil {
		return e, m, err
	}
	if e, m, err = replica.ParseMessage(&h); err == nil && m.Carried() == nil {
		err = m.ParseList(list, h.CRC)
	}
	return e, m, err
}

func TestMessages(t *testing.T) {
	var golden []byte
	for _, m := range everything() {
		header, list := encode(&m)
		golden = fmt.Appendf(golden, "kind %d\n%s%s", m.Kind, hex.Dump(header), hex.Dump(list))
		e, got, err := decode(header, list)
		if err != nil || e != envelope || !reflect.DeepEqual(got, m) {
			t.Errorf("%+v came back as %+v %+v, %v", m, e, got, err)
		}
		for n := range header {
			if _, _, err := decode(header[:n], list); err == nil {
				t.Errorf("%d of %d bytes of %+v are a message", n, len(header), m)
			}
		}
		for n := range list {
			if _, _, err := decode(header, list[:n]); err == nil {
				t.Errorf("%d of %d bytes of the list in %+v are one", n, len(list), m)
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

// TestBodyIsKnownFromTheHeader: there is room to be made for a value before it is there.
func TestBodyIsKnownFromTheHeader(t *testing.T) {
	for _, m := range everything() {
		header, list := encode(&m)
		h, _ := wire.ParseHeader(header)
		_, got, err := replica.ParseMessage(&h)
		if err != nil {
			t.Fatal(err)
		}
		body := len(list)
		if c := got.Carried(); c != nil {
			body = int(c.Value.Bytes)
			if h.CRC != c.Value.CRC || string(got.Key) != "key" {
				t.Errorf("kind %d carries a value of %q with checksum %x, the header has %x", m.Kind, got.Key, c.Value.CRC, h.CRC)
			}
		}
		if err := got.CheckBody(body); err != nil {
			t.Error(err)
		}
		if got.CheckBody(replica.MaxListBytes+1) == nil || len(list) == 0 && m.Kind != replica.Sealed && got.CheckBody(body+1) == nil {
			t.Errorf("%+v is believed to have a longer body", m)
		}
	}
}

func TestLongestHeaderFits(t *testing.T) {
	for _, m := range everything() {
		if len(m.Key) > 0 {
			m.Key = bytes.Repeat([]byte("k"), dramnode.MaxKeyBytes)
		}
		if header, _ := encode(&m); len(header) > transport.MaxHeaderBytes {
			t.Errorf("kind %d has a header of %d bytes", m.Kind, len(header))
		}
	}
}

func TestParseMessageRefuses(t *testing.T) {
	const ext = wire.HeaderBytes
	change := func(kind replica.Kind, at int, with byte) func() ([]byte, []byte) {
		return func() ([]byte, []byte) {
			for _, m := range everything() {
				if m.Kind == kind {
					header, list := encode(&m)
					header[at] = with
					return header, list
				}
			}
			panic("no such kind")
		}
	}
	list := func(m replica.Message, edit func([]byte)) func() ([]byte, []byte) {
		return func() ([]byte, []byte) {
			m.From, m.To, m.Epoch = 1, 2, 7
			b := m.AppendList(nil)
			edit(b)
			return m.AppendHeader(nil, envelope, b), b
		}
	}
	item := replica.Message{Kind: replica.ChunkAck, Page: replica.Page{Part: replica.PartNames}, Items: []replica.Item{{Key: []byte("a"), Version: replica.Copy{Gen: 1}}}}
	seal := replica.Message{Kind: replica.Seal, Row: row(7, 2)}
	for name, make := range map[string]func() ([]byte, []byte){
		"another layout":       change(replica.Ack, ext, 9),
		"kind 0":               change(replica.Ack, ext+1, 0),
		"kind after the last":  change(replica.Ack, ext+1, byte(replica.Filled)+1),
		"from nobody":          change(replica.Ack, ext+16, 0),
		"to nobody":            change(replica.Ack, ext+24, 0),
		"high generation":      change(replica.Ack, ext+55, 0x80),
		"high floor":           change(replica.Ack, ext+47, 0x80),
		"no generation":        change(replica.Commit, ext+48, 0),
		"two generations":      change(replica.Prepare, ext+48, 1),
		"epoch":                change(replica.Ack, 11, 0x80),
		"flags of the header":  change(replica.Ack, 2, byte(wire.FlagHop)),
		"another operation":    change(replica.Ack, 0, byte(wire.KindPut)),
		"checksum of nothing":  change(replica.Ack, 28, 1),
		"another checksum":     change(replica.Stage, 28, 1),
		"checksum of the list": change(replica.Sealed, 28, 1),
		"flags of a version":   change(replica.Fill, ext+72, 4),
		"a delete with value":  change(replica.Fill, ext+72, 3),
		"negative ttl":         change(replica.Fill, ext+72+31, 0x80),
		"reserved":             change(replica.Sync, ext+64+64+32, 1),
		"two values":           change(replica.Sync, ext+64, 2),
		"part":                 change(replica.ChunkAck, ext+56, 4),
		"end":                  change(replica.ChunkAck, ext+57, 2),
		"used of 101 percent":  change(replica.Ack, ext+56, 101),
		"crowded":              change(replica.Ack, ext+57, 2),
		"long key of an item":  list(item, func(b []byte) { b[1] = 0x20 }),
		"flags of an item":     list(item, func(b []byte) { b[2] = 2 }),
		"item without version": list(item, func(b []byte) { b[16] = 0 }),
		"set that is too long": list(seal, func(b []byte) { b[20] = 200 }),
		"row of another epoch": list(seal, func(b []byte) { b[0] = 6 }),
		"primary not in sync":  list(seal, func(b []byte) { b[24] = 9 }),
	} {
		if _, m, err := decode(make()); !errors.Is(err, replica.ErrMessage) && !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
}

func TestCodecDoesNotAllocate(t *testing.T) {
	m := everything()[0]
	buf := make([]byte, 0, 1024)
	if n := testing.AllocsPerRun(100, func() {
		buf = m.AppendHeader(buf[:0], envelope, nil)
		h, _ := wire.ParseHeader(buf)
		if _, _, err := replica.ParseMessage(&h); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("a Prepare allocates %v times", n)
	}
}

func FuzzParseMessage(f *testing.F) {
	for _, m := range everything() {
		header, list := encode(&m)
		f.Add(header, list)
	}
	f.Fuzz(func(t *testing.T, header, list []byte) {
		_, m, err := decode(header, list)
		if err != nil {
			return
		}
		again := m.AppendList(nil)
		if m.Carried() == nil && !bytes.Equal(again, list) {
			t.Fatalf("%x is a list, and encoded again it is %x", list, again)
		}
		if _, got, err := decode(m.AppendHeader(nil, envelope, again), again); err != nil || !reflect.DeepEqual(got, m) {
			t.Fatalf("%+v came back as %+v, %v", m, got, err)
		}
	})
}

// FuzzStep: whatever a peer sends, a replica goes on. to says which one it comes to: primary, backup or learner.
func FuzzStep(f *testing.F) {
	for _, m := range everything() {
		header, list := encode(&m)
		for to := range byte(3) {
			f.Add(header, list, to, uint8(7))
		}
	}
	f.Fuzz(func(t *testing.T, header, list []byte, to, epoch byte) {
		_, m, err := decode(header, list)
		if err != nil || m.Page.Next > math.MaxInt64 {
			return
		}
		c := newCluster(t, 2)
		c.put("key", 1, 1)
		c.put("other", 2, config.InlineBytes+1)
		c.settle(kind(replica.Ack))
		learner := c.join(3)
		r := row(1, 2)
		r.ActEpoch, r.Learner, r.AssignID, r.Modified = 1, learner, 3, 3
		c.adopt(r)
		m.To = replica.ID(to%3) + 1
		if m.From = 1; m.To == 1 {
			m.From = 2 + replica.ID(epoch&1)
		}
		if m.Epoch = replica.Epoch(epoch % 4); m.Row != nil {
			m.Row.Epoch = m.Epoch
		}
		if m.To == 3 || m.From == 3 {
			m.Assign = 3
		}
		for range 2 {
			c.deliver(flight{Message: m, version: 5, base: 6})
		}
		c.tick(config.Resend)
		c.tick(config.Report)
	})
}
