package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/dramnode/dramnode"
)

var update = flag.Bool("update", false, "rewrite the golden files; understand the difference before you commit it")

const testCluster = 0x1122334455667788

// golden returns one sample of everything that crosses the wire, by file name.
func golden() map[string][]byte {
	samples := map[string][]byte{
		"ext_read":        AppendReadExt(nil, ReadExt{IfGeneration: 1, IfNotGeneration: 2, Start: 3, End: -1}),
		"ext_write":       AppendWriteExt(nil, WriteExt{Client: 1, Counter: 2, FirstUnacked: 3, IfGeneration: 4, TTLMillis: 5}),
		"ext_reply":       AppendReplyExt(nil, ReplyExt{Generation: 1, Size: 2, TTLMillis: 3}),
		"ext_reply_place": AppendReplyExt(nil, ReplyExt{Generation: 1, Size: 2, TTLMillis: 3, Place: 4096}),
		"list_page":       AppendListReply(nil, &ListReply{Entries: []ListEntry{{[]byte("a"), 1, 0}, {[]byte("a/b"), 2, 64 << 20}}, More: true}),
		"list_empty":      AppendListReply(nil, &ListReply{}),
		"list_request": AppendListRequest(nil, &ListRequest{
			Start: []byte("a"), End: []byte("b"), After: []byte("a/b"), Limit: 1000, Partitions: []uint64{1, 1 << 63}}),
		"list_request_all": AppendListRequest(nil, &ListRequest{Limit: 1}),
	}
	for kind := Kind(0); kind != 255; kind++ {
		if kind.valid() {
			samples[fmt.Sprintf("op_%02d_request", kind)], samples[fmt.Sprintf("op_%02d_reply", kind)] = sampleOps(kind)
		}
	}
	for kind := FrameRequest; kind <= FrameIntro; kind++ {
		f := Frame{ID: 0x0102030405060708, Kind: kind, Header: []byte("header"), Body: []byte("the body")}
		if kind == FramePing || kind == FramePong || kind == FrameRefused {
			f.Header, f.Body = nil, nil
		}
		samples[fmt.Sprintf("message_%d", kind)] = message(f)
	}
	samples["message_batch"] = message(
		Frame{ID: 1, Kind: FrameRequest, Header: []byte("a"), Body: []byte("b")},
		Frame{ID: 2, Kind: FrameReply, Header: []byte("12345678")},
		Frame{ID: 3, Kind: FramePing})
	samples["message_separate"] = message(Frame{ID: 1, Kind: FrameRequest, Flags: FrameSeparate, Header: []byte("h"), BodyBytes: 1 << 20})
	samples["message_piece"] = message(Frame{ID: 1, Kind: FrameReply, Flags: FrameSeparate | FramePiece, BodyBytes: 1 << 20})
	return samples
}

// sampleOps returns a request and a reply of one kind, with the extension that belongs to it.
func sampleOps(kind Kind) (request, reply []byte) {
	h := Header{Kind: kind, Epoch: 7, BudgetMicros: 1_000_000, TableVersion: 9}
	answer := Header{Kind: kind, Flags: FlagReply, Epoch: 8, TableVersion: 10}
	switch kind {
	case KindGet:
		h.Flags, h.Key = FlagRange|FlagClip|FlagIfNotMatch, []byte("key")
		h.Ext = AppendReadExt(nil, ReadExt{IfNotGeneration: 2, Start: 3, End: 4})
		answer.CRC, answer.Ext = 0xAABBCCDD, AppendReplyExt(nil, ReplyExt{Generation: 1, Size: 2, TTLMillis: 3})
	case KindPut, KindDelete, KindTouch:
		h.Flags, h.Key, h.CRC = FlagHop|FlagFence|FlagIfMatch, []byte("key"), 0xAABBCCDD
		h.Ext = AppendWriteExt(nil, WriteExt{Client: 1, Counter: 2, FirstUnacked: 1, IfGeneration: 4, TTLMillis: 5})
		answer.Status, answer.Ext = StatusGenerationMismatch, AppendReplyExt(nil, ReplyExt{Generation: 6})
	case KindDeleteRange:
		h.Ext = AppendWriteExt(nil, WriteExt{Client: 1, Counter: 2, FirstUnacked: 1})
		answer.Ext = AppendReplyExt(nil, ReplyExt{Size: 12})
	default:
		answer.Status = StatusNotOwner
	}
	return AppendHeader(nil, &h), AppendHeader(nil, &answer)
}

func message(frames ...Frame) []byte {
	m := AppendMessage(nil, testCluster)
	for _, f := range frames {
		m = AppendFrame(m, &f)
	}
	SealMessage(m, len(frames))
	return m
}

// readAll walks a whole message.
func readAll(m []byte, separateBytes int) ([]Frame, error) {
	r, err := ReadMessage(m, testCluster, separateBytes)
	if err != nil {
		return nil, err
	}
	var frames []Frame
	for {
		var f Frame
		ok, err := r.Next(&f)
		if err != nil || !ok {
			return frames, err
		}
		frames = append(frames, f)
	}
}

// separateOf is the length of the data part that belongs to a golden message.
func separateOf(m []byte) int {
	if len(m) >= MessageHeaderBytes+FrameHeaderBytes && m[MessageHeaderBytes+9]&FrameSeparate != 0 {
		return int(binary.LittleEndian.Uint32(m[MessageHeaderBytes+12:]))
	}
	return -1
}

// again parses a sample by its name and encodes the result.
func again(name string, b []byte) ([]byte, error) {
	switch {
	case strings.HasPrefix(name, "message"):
		frames, err := readAll(b, separateOf(b))
		return message(frames...), err
	case strings.HasPrefix(name, "op"):
		h, err := ParseHeader(b)
		return AppendHeader(nil, &h), err
	case name == "ext_read":
		e, err := ParseReadExt(b)
		return AppendReadExt(nil, e), err
	case name == "ext_write":
		e, err := ParseWriteExt(b)
		return AppendWriteExt(nil, e), err
	case strings.HasPrefix(name, "ext_reply"):
		e, err := ParseReplyExt(b)
		return AppendReplyExt(nil, e), err
	case strings.HasPrefix(name, "list_request"):
		r, err := ParseListRequest(b, nil)
		return AppendListRequest(nil, &r), err
	default:
		r, err := ParseListReply(b, nil)
		return AppendListReply(nil, &r), err
	}
}

func TestGolden(t *testing.T) {
	samples := golden()
	for name, got := range samples {
		path := filepath.Join("testdata", name+".hex")
		if *update {
			if err := os.WriteFile(path, []byte(hex.Dump(got)), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if hex.Dump(got) != string(want) {
			t.Errorf("%s is now\n%swant\n%s", name, hex.Dump(got), want)
		}
		if b, err := again(name, got); err != nil || !bytes.Equal(b, got) {
			t.Errorf("%s: parsed and encoded again it is %x (%v), want %x", name, b, err, got)
		}
	}
	files, err := filepath.Glob("testdata/*.hex")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(samples) {
		t.Errorf("testdata has %d golden files, want %d", len(files), len(samples))
	}
}

// TestTruncated cuts every sample at every length: no part of one is a whole one.
func TestTruncated(t *testing.T) {
	for name, b := range golden() {
		for n := range b {
			if n == 0 && (name == "ext_read" || strings.HasPrefix(name, "ext_reply")) || n == replyExtBytes && name == "ext_reply_place" {
				continue // an absent extension is the zero one, and so is an absent place
			}
			if _, err := again(name, b[:n:n]); err == nil {
				t.Errorf("%s: the first %d of %d bytes parse", name, n, len(b))
			}
		}
		if _, err := again(name, append(bytes.Clone(b), 0)); err == nil {
			t.Errorf("%s: it parses with a byte after it", name)
		}
	}
}

// TestFlippedBits damages every bit of every message: the checksum, or a check before it, notices.
func TestFlippedBits(t *testing.T) {
	for name, b := range golden() {
		if !strings.HasPrefix(name, "message") {
			continue
		}
		separate := separateOf(b)
		for i := range len(b) * 8 {
			damaged := bytes.Clone(b)
			damaged[i/8] ^= 1 << (i % 8)
			if _, err := readAll(damaged, separate); err == nil {
				t.Errorf("%s: bit %d flipped goes unnoticed", name, i)
			}
		}
	}
}

func TestMalformedMessages(t *testing.T) {
	whole := message(Frame{ID: 1, Kind: FrameRequest, Header: []byte("abc"), Body: []byte("de")})
	separate := message(Frame{ID: 1, Kind: FrameRequest, Flags: FrameSeparate, Header: []byte("abc"), BodyBytes: 100})
	frame := MessageHeaderBytes
	for _, c := range []struct {
		name         string
		message      []byte
		at           int
		value        byte
		separate     int
		frames       int // sealed so; 0: not sealed again
		want         error
		wantNotError error
	}{
		{"good", whole, 0, 'D', -1, 1, nil, nil},
		{"good separate", separate, 0, 'D', 100, 1, nil, nil},
		{"magic", whole, 0, 'X', -1, 1, ErrMalformed, nil},
		{"version", whole, 4, 2, -1, 1, ErrVersion, ErrMalformed},
		{"reserved", whole, 5, 1, -1, 1, ErrMalformed, nil},
		{"reserved at the end", whole, 23, 1, -1, 1, ErrMalformed, nil},
		{"cluster", whole, 8, 0, -1, 1, ErrCluster, ErrMalformed},
		{"checksum", whole, 16, 0, -1, 0, ErrChecksum, ErrMalformed},
		{"no frames", whole, 0, 'D', -1, 0x10000, ErrMalformed, nil},
		{"too few frames", whole, 0, 'D', -1, 2, ErrMalformed, nil},
		{"frame kind 0", whole, frame + 8, 0, -1, 1, ErrMalformed, nil},
		{"frame kind 7", whole, frame + 8, 7, -1, 1, ErrMalformed, nil},
		{"piece without a data part", whole, frame + 9, 2, -1, 1, ErrMalformed, nil},
		{"frame flags", separate, frame + 9, 5, 100, 1, ErrMalformed, nil},
		{"separate without a data part", whole, frame + 9, 1, -1, 1, ErrMalformed, nil},
		{"data part without separate", whole, 0, 'D', 2, 1, ErrMalformed, nil},
		{"data part shorter than the body", separate, 0, 'D', 99, 1, nil, nil},
		{"data part longer than the body", separate, 0, 'D', 101, 1, ErrMalformed, nil},
		{"later piece", separate, frame + 9, 3, 100, 1, nil, nil},
		{"two frames with a data part", separate, 0, 'D', 100, 2, ErrMalformed, nil},
		{"long header", whole, frame + 10, 200, -1, 1, ErrMalformed, nil},
		{"long body", whole, frame + 15, 0xFF, -1, 1, ErrMalformed, nil},
		{"padding", whole, len(whole) - 1, 1, -1, 1, ErrMalformed, nil},
	} {
		m := bytes.Clone(c.message)
		m[c.at] = c.value
		if c.name == "checksum" {
			m[c.at] = ^c.message[c.at]
		}
		if c.frames != 0 {
			SealMessage(m, c.frames)
		}
		_, err := readAll(m, c.separate)
		if !errors.Is(err, c.want) || c.wantNotError != nil && errors.Is(err, c.wantNotError) {
			t.Errorf("%s: got error %v, want %v", c.name, err, c.want)
		}
	}
}

// set returns b with bytes replaced from at on.
func set(b []byte, at int, values ...byte) []byte {
	b = bytes.Clone(b)
	copy(b[at:], values)
	return b
}

func TestMalformedFields(t *testing.T) {
	request, reply := sampleOps(KindGet)
	list := golden()["list_request"]
	page := golden()["list_page"]
	second := ListReplyBytes + ListEntryBytes + 1
	for _, c := range []struct {
		name, kind string
		b          []byte
	}{
		{"kind 0", "op", set(request, 0, 0)},
		{"kind between the groups", "op", set(request, 0, byte(KindDeleteRange)+1)},
		{"kind before the control requests", "op", set(request, 0, byte(KindTable)-1)},
		{"kind after the last", "op", set(request, 0, byte(KindRecover)+1)},
		{"status after the last", "op", set(reply, 1, byte(statusEnd))},
		{"a request with a status", "op", set(request, 1, byte(StatusBusy))},
		{"first unknown flag", "op", set(request, 3, byte(flagsEnd>>8))},
		{"unknown high flag", "op", set(request, 3, 0x80)},
		{"space", "op", set(request, 4, 1)},
		{"key length", "op", set(request, 6, 4)},
		{"ext length", "op", set(request, 24, 0)},
		{"reserved", "op", set(request, 26, 1)},
		{"reserved, second", "op", set(request, 27, 1)},
		{"long", "ext_read", make([]byte, ReadExtBytes+8)},
		{"empty", "ext_write", nil},
		{"long", "ext_reply", make([]byte, ReplyExtBytes+1)},
		{"place 0", "ext_reply", make([]byte, ReplyExtBytes)},
		{"start too long", "list_request", set(AppendListRequest(nil, &ListRequest{Start: make([]byte, 4097), Limit: 1}), 0)},
		{"end too long", "list_request", set(AppendListRequest(nil, &ListRequest{End: make([]byte, 4097), Limit: 1}), 0)},
		{"after too long", "list_request", set(AppendListRequest(nil, &ListRequest{After: make([]byte, 4097), Limit: 1}), 0)},
		{"reserved", "list_request", set(list, 6, 1)},
		{"limit 0", "list_request", set(list, 8, 0, 0)},
		{"limit 1001", "list_request", set(list, 8, 0xE9, 0x03)},
		{"huge bitmap", "list_request", set(list, 12, 0xFF, 0xFF, 0xFF, 0xFF)},
		{"one word too many", "list_request", AppendListRequest(nil, &ListRequest{Limit: 1, Partitions: make([]uint64, MaxPartitionWords+1)})},
		{"padding", "list_request", set(list, ListRequestBytes+5, 1)},
		{"more is 2", "list_page", set(page, 4, 2)},
		{"reserved", "list_page", set(page, 7, 1)},
		{"fewer entries", "list_page", set(page, 0, 1)},
		{"more entries", "list_page", set(page, 0, 3)},
		{"far more entries", "list_page", set(page, 0, 0xFF, 0xFF, 0xFF, 0xFF)},
		{"no entry but more", "list_page", set(AppendListReply(nil, &ListReply{}), 4, 1)},
		{"generation 0", "list_page", set(page, ListReplyBytes, 0)},
		{"empty key", "list_page", AppendListReply(nil, &ListReply{Entries: []ListEntry{{nil, 1, 1}}})},
		{"key too long", "list_page", AppendListReply(nil, &ListReply{Entries: []ListEntry{{make([]byte, 4097), 1, 1}}})},
		{"out of order", "list_page", set(page, second+ListEntryBytes, 'A')},
		{"twice the same key", "list_page", AppendListReply(nil, &ListReply{Entries: []ListEntry{{[]byte("k"), 1, 1}, {[]byte("k"), 2, 1}}})},
		{"page too long", "list_page", longPage(64)},
		{"too many entries", "list_page", manyEntries(ListPageKeys + 1)},
	} {
		if _, err := again(c.kind, c.b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s of %s: got error %v, want ErrMalformed", c.name, c.kind, err)
		}
	}
	for _, b := range [][]byte{longPage(63), manyEntries(ListPageKeys)} {
		if _, err := ParseListReply(b, nil); err != nil {
			t.Errorf("a page of %d bytes: %v", len(b), err)
		}
	}
}

// longPage has n entries with the longest keys.
func longPage(n int) []byte {
	var r ListReply
	for i := range n {
		key := make([]byte, dramnode.MaxKeyBytes)
		key[0] = byte(i)
		r.Entries = append(r.Entries, ListEntry{key, 1, 1})
	}
	return AppendListReply(nil, &r)
}

func manyEntries(n int) []byte {
	var r ListReply
	for i := range n {
		r.Entries = append(r.Entries, ListEntry{binary.BigEndian.AppendUint32(nil, uint32(i)), 1, 1})
	}
	return AppendListReply(nil, &r)
}

func TestStatuses(t *testing.T) {
	for s := StatusOK; s < statusEnd; s++ {
		err := s.Err()
		if (err == nil) != (s == StatusOK || s == StatusNotOwner) {
			t.Errorf("status %d stands for %v", s, err)
		}
		if err != nil && StatusOf(fmt.Errorf("wrapped: %w", err)) != s {
			t.Errorf("status %d comes back as %d", s, StatusOf(err))
		}
	}
	for _, c := range []struct {
		err  error
		want Status
	}{
		{nil, StatusOK},
		{errors.New("anything"), StatusUnknownOutcome},
		{&dramnode.GenerationError{Current: 4}, StatusGenerationMismatch},
		{fmt.Errorf("%w: %w", dramnode.ErrClosed, dramnode.ErrUnavailable), StatusUnavailable},
		{fmt.Errorf("%w: %w", dramnode.ErrClosed, dramnode.ErrUnknownOutcome), StatusUnknownOutcome},
		{fmt.Errorf("%w: %w", dramnode.ErrBusy, dramnode.ErrUnknownOutcome), StatusUnknownOutcome},
	} {
		if got := StatusOf(c.err); got != c.want {
			t.Errorf("StatusOf(%v) = %d, want %d", c.err, got, c.want)
		}
	}
	if err := Status(255).Err(); err != dramnode.ErrUnknownOutcome {
		t.Errorf("a status of a later version stands for %v, want ErrUnknownOutcome", err)
	}
}

func TestPrefixEnd(t *testing.T) {
	for _, c := range []struct{ prefix, want string }{
		{"", ""}, {"a", "b"}, {"a/", "a0"}, {"a\xff", "b"}, {"\xff", ""}, {"\xff\xff", ""}, {"a\xfe", "a\xff"}, {"\x00", "\x01"}, {"a\x00\xff\xff", "a\x01"},
	} {
		if got := PrefixEnd([]byte(c.prefix)); string(got) != c.want || (got == nil) != (c.want == "") {
			t.Errorf("PrefixEnd(%q) = %q, want %q", c.prefix, got, c.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		alphabet := rapid.SampledFrom([]byte{0, 'a', 0xFE, 0xFF})
		prefix, key := rapid.SliceOfN(alphabet, 0, 3).Draw(t, "prefix"), rapid.SliceOfN(alphabet, 1, 5).Draw(t, "key")
		end := PrefixEnd(prefix)
		in := bytes.Compare(key, prefix) >= 0 && (end == nil || bytes.Compare(key, end) < 0)
		if in != bytes.HasPrefix(key, prefix) {
			t.Fatalf("key %x in [%x,%x) is %v", key, prefix, end, in)
		}
	})
}

func drawBytes(t *rapid.T, label string, most int) []byte {
	return rapid.SliceOfN(rapid.Byte(), 0, most).Draw(t, label)
}

func TestHeaderRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := Header{
			Kind:         rapid.SampledFrom([]Kind{KindGet, KindPut, KindDelete, KindTouch, KindList, KindDeleteRange, KindTable, KindInfo}).Draw(t, "kind"),
			Flags:        rapid.Uint16Range(0, flagsEnd-1).Draw(t, "flags"),
			Epoch:        rapid.Uint32().Draw(t, "epoch"),
			BudgetMicros: rapid.Uint32().Draw(t, "budget"),
			TableVersion: rapid.Uint64().Draw(t, "version"),
			CRC:          rapid.Uint32().Draw(t, "crc"),
			Ext:          drawBytes(t, "ext", 64),
			Key:          drawBytes(t, "key", dramnode.MaxKeyBytes),
		}
		if h.Flags&FlagReply != 0 {
			h.Status = Status(rapid.Uint8Range(0, uint8(statusEnd)-1).Draw(t, "status"))
		}
		got, err := ParseHeader(AppendHeader(nil, &h))
		if err != nil || !reflect.DeepEqual(got, h) {
			t.Fatalf("got %+v (%v), want %+v", got, err, h)
		}
	})
}

func TestExtRoundTrips(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		read, write, reply := rapid.Make[ReadExt]().Draw(t, "read"), rapid.Make[WriteExt]().Draw(t, "write"), rapid.Make[ReplyExt]().Draw(t, "reply")
		if got, err := ParseReadExt(AppendReadExt(nil, read)); err != nil || got != read {
			t.Fatalf("got %+v (%v), want %+v", got, err, read)
		}
		if got, err := ParseWriteExt(AppendWriteExt(nil, write)); err != nil || got != write {
			t.Fatalf("got %+v (%v), want %+v", got, err, write)
		}
		if got, err := ParseReplyExt(AppendReplyExt(nil, reply)); err != nil || got != reply {
			t.Fatalf("got %+v (%v), want %+v", got, err, reply)
		}
	})
}

func TestListRoundTrips(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		request := ListRequest{
			Start:      drawBytes(t, "start", 20),
			End:        drawBytes(t, "end", 20),
			After:      drawBytes(t, "after", 20),
			Limit:      rapid.Uint32Range(1, ListPageKeys).Draw(t, "limit"),
			Partitions: rapid.SliceOfN(rapid.Uint64(), 0, 10).Draw(t, "partitions"),
		}
		got, err := ParseListRequest(AppendListRequest(nil, &request), make([]uint64, 0, 3))
		if err != nil || !reflect.DeepEqual(got, request) {
			t.Fatalf("got %+v (%v), want %+v", got, err, request)
		}
		reply := ListReply{Entries: []ListEntry{}}
		keys := rapid.SliceOfNDistinct(rapid.StringN(1, 30, -1), 0, 20, rapid.ID[string]).Draw(t, "keys")
		slices.Sort(keys)
		for _, k := range keys {
			reply.Entries = append(reply.Entries, ListEntry{
				Key:        []byte(k),
				Generation: dramnode.Generation(rapid.Uint64Range(1, math.MaxUint64).Draw(t, "generation")),
				Size:       rapid.Uint64().Draw(t, "size"),
			})
		}
		reply.More = len(keys) > 0 && rapid.Bool().Draw(t, "more")
		page, err := ParseListReply(AppendListReply(nil, &reply), make([]ListEntry, 0, 3))
		if err != nil || !reflect.DeepEqual(page, reply) {
			t.Fatalf("got %+v (%v), want %+v", page, err, reply)
		}
	})
}

func TestMessageRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var frames []Frame
		for i := range rapid.IntRange(1, 8).Draw(t, "frames") {
			f := Frame{
				ID:     rapid.Uint64().Draw(t, "id"),
				Kind:   FrameKind(rapid.Uint8Range(uint8(FrameRequest), uint8(FrameIntro)).Draw(t, "kind")),
				Header: drawBytes(t, "header", 60),
				Body:   drawBytes(t, fmt.Sprint("body", i), 60),
			}
			f.BodyBytes = len(f.Body)
			frames = append(frames, f)
		}
		m := message(frames...)
		size := MessageHeaderBytes
		for _, f := range frames {
			size += FrameBytes(len(f.Header), len(f.Body))
		}
		got, err := readAll(m, -1)
		if err != nil || !reflect.DeepEqual(got, frames) || len(m) != size {
			t.Fatalf("got %+v (%v) in %d bytes, want %+v in %d", got, err, len(m), frames, size)
		}
	})
}

// TestNoAllocations: nothing on the small path may allocate.
func TestNoAllocations(t *testing.T) {
	request, _ := sampleOps(KindPut)
	h, err := ParseHeader(request)
	if err != nil {
		t.Fatal(err)
	}
	frame := Frame{ID: 1, Kind: FrameRequest, Header: request, Body: []byte("value")}
	m := message(frame, frame, frame)
	list, err := ParseListRequest(golden()["list_request"], nil)
	if err != nil {
		t.Fatal(err)
	}
	page, err := ParseListReply(golden()["list_page"], nil)
	if err != nil {
		t.Fatal(err)
	}
	buf, words, entries := make([]byte, 0, BatchBytes), make([]uint64, 0, 8), make([]ListEntry, 0, 8)
	for name, f := range map[string]func(){
		"AppendHeader": func() { buf = AppendHeader(buf[:0], &h) },
		"ParseHeader":  func() { _, err = ParseHeader(request) },
		"exts": func() {
			buf = AppendReadExt(buf[:0], ReadExt{})
			_, err = ParseReadExt(buf)
			buf = AppendWriteExt(buf[:0], WriteExt{})
			_, err = ParseWriteExt(buf)
			buf = AppendReplyExt(buf[:0], ReplyExt{})
			_, err = ParseReplyExt(buf)
		},
		"AppendFrame": func() {
			buf = AppendFrame(AppendMessage(buf[:0], testCluster), &frame)
			SealMessage(buf, 1)
		},
		"ReadMessage": func() {
			var f Frame
			r, _ := ReadMessage(m, testCluster, -1)
			for ok := true; ok; {
				ok, err = r.Next(&f)
			}
		},
		"ListRequest": func() {
			buf = AppendListRequest(buf[:0], &list)
			_, err = ParseListRequest(buf, words)
		},
		"ListReply": func() {
			buf = AppendListReply(buf[:0], &page)
			_, err = ParseListReply(buf, entries)
		},
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 || err != nil {
			t.Errorf("%s allocates %v times (%v), want 0", name, n, err)
		}
	}
}
