package object

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/gateway/gatewaytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func setup(t *testing.T, change func(*Config)) (*Service, *client.Client) {
	t.Helper()
	store := gatewaytest.NewCluster(t, 1, 64<<20).Inside(0)
	cfg := Config{Store: store, MaxValueBytes: 1 << 20, ChunkBytes: 64 << 10, MinPartBytes: 1}
	if change != nil {
		change(&cfg)
	}
	s := New(cfg)
	if err := s.MakeBucket(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	return s, store
}

func body(b []byte) Body { return Body{Reader: bytes.NewReader(b), Size: int64(len(b))} }

// part is content of PutPart, and welcome is a vet of Complete that takes everything.
func part(b []byte) func(SumKind) (Body, error) {
	return func(SumKind) (Body, error) { return body(b), nil }
}

func welcome(Assembly) error { return nil }

func (s *Service) read(t *testing.T, n Name) []byte {
	t.Helper()
	r, err := s.Open(t.Context(), n, All)
	if err != nil {
		t.Fatalf("%v: %v", n, err)
	}
	defer r.Close()
	var out bytes.Buffer
	if _, err := r.WriteTo(&out); err != nil {
		t.Fatalf("%v: %v", n, err)
	}
	return out.Bytes()
}

func keys(t *testing.T, store *client.Client, prefix string) (found []string) {
	t.Helper()
	for e, err := range store.List(t.Context(), client.Query{Prefix: []byte(prefix)}) {
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, string(e.Key))
	}
	return found
}

// The sweep removes what nothing names and nobody can be uploading any more, and nothing else.
func TestSweep(t *testing.T) {
	s, store := setup(t, nil)
	ctx, long := t.Context(), bytes.Repeat([]byte("long"), 1<<19)
	kept, lost, going := Name{"b", "kept"}, Name{"b", "lost"}, Name{"b", "going"}
	for _, n := range []Name{kept, lost} {
		if _, err := s.Put(ctx, n, body(long), nil); err != nil {
			t.Fatal(err)
		}
	}
	u, err := s.Begin(ctx, going, nil, SumKind{})
	if err != nil {
		t.Fatal(err)
	}
	first, err := s.PutPart(ctx, going, u.ID, 1, part(long))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Put(ctx, lost.valueKey(), []byte("another face overwrites it")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(ctx, Name{"b", "gone"}, body(nil), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Remove(ctx, Name{"b", "gone"}.valueKey()); err != nil {
		t.Fatal(err)
	}
	all := len(keys(t, store, chunkKeys))
	if err := s.Sweep(ctx, time.Now()); err != nil {
		t.Fatal(err)
	}
	if left := len(keys(t, store, chunkKeys)); left != all || s.staged.bytes != int64(2*len(long)) {
		t.Errorf("too young to be swept: %d of %d chunks are left, %d bytes count as staged", left, all, s.staged.bytes)
	}
	if left := keys(t, store, recordKeys); len(left) != 2 {
		t.Errorf("records %q, want those of kept and lost", left)
	}
	if _, err := s.Complete(ctx, going, u.ID, []Chosen{{1, first.Tag()}}, welcome); err != nil {
		t.Fatal(err)
	}
	if err := s.Sweep(ctx, time.Now().Add(s.cfg.UploadTimeout+2*sweepSlack)); err != nil {
		t.Fatal(err)
	}
	for _, key := range keys(t, store, chunkKeys) {
		if strings.HasPrefix(key, chunkKeys+"b/lost\x00") {
			t.Errorf("%q is left", key)
		}
	}
	if !bytes.Equal(s.read(t, kept), long) || !bytes.Equal(s.read(t, going), long) || string(s.read(t, lost)) != "another face overwrites it" {
		t.Error("the sweep changed an object")
	}
}

// Without a record, which a node that dies may leave unwritten, an object has default metadata and its own length.
func TestWithoutRecord(t *testing.T) {
	s, store := setup(t, nil)
	ctx, long := t.Context(), bytes.Repeat([]byte("long"), 1<<19)
	for key, value := range map[string][]byte{"short": []byte("x"), "long": long} {
		n := Name{"b", key}
		if _, err := s.Put(ctx, n, body(value), map[string]string{"Content-Type": "a/b"}); err != nil {
			t.Fatal(err)
		}
		if _, err := store.Remove(ctx, n.recordKey()); err != nil {
			t.Fatal(err)
		}
		i, err := s.Stat(ctx, n)
		if err != nil || i.Size != int64(len(value)) || !bytes.Equal(s.read(t, n), value) {
			t.Errorf("%s: %+v, %v", key, i, err)
		}
	}
	page, err := s.List(ctx, Query{Bucket: "b", Limit: 10})
	if err != nil || len(page.Entries) != 2 || page.Entries[0].Size != int64(len(long)) || page.Entries[1].Size != 1 {
		t.Errorf("%+v, %v", page, err)
	}
}

// A later write's record is never replaced by an earlier one's, in whatever order they are kept.
func TestRecordOrder(t *testing.T) {
	s, _ := setup(t, nil)
	n := Name{"b", "k"}
	for _, g := range []dramnode.Generation{5, 3, 7, 6} {
		if err := s.keep(t.Context(), n, record{Generation: g}, stored{}); err != nil {
			t.Fatal(err)
		}
	}
	if r := s.readRecord(t.Context(), n); r.record == nil || r.Generation != 7 {
		t.Errorf("%+v, want generation 7", r)
	}
}

// Faces that know no objects see neither manifests nor what lies beside the objects.
func TestGuard(t *testing.T) {
	s, store := setup(t, nil)
	ctx, g := t.Context(), Guard(store)
	if _, err := s.Put(ctx, Name{"b", "long"}, body(make([]byte, 2<<20)), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Put(ctx, []byte("b/short"), []byte("v")); err != nil {
		t.Fatal(err)
	}
	long := []byte("b/long")
	for name, read := range map[string]func() error{
		"Get":       func() error { _, err := g.Get(ctx, long); return err },
		"range":     func() error { _, err := g.Get(ctx, long, client.Range(100, 110)); return err },
		"GetBuffer": func() error { _, _, err := g.GetBuffer(ctx, long); return err },
		"Stat":      func() error { _, err := g.Stat(ctx, long); return err },
		"MultiGet":  func() error { return g.MultiGet(ctx, [][]byte{long})[0].Err },
		"batch": func() error {
			b := g.NewBatch()
			defer b.Reset()
			b.Get(long, client.Suffix(3))
			b.Do(ctx)
			return b.Err(0)
		},
	} {
		if err := read(); !errors.Is(err, ErrChunked) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var listed []string
	for e, err := range g.List(ctx, client.Query{Limit: 2}) {
		if err != nil {
			t.Fatal(err)
		}
		listed = append(listed, string(e.Key))
	}
	if strings.Join(listed, " ") != "b/long b/short" {
		t.Errorf("listed %q", listed)
	}
	if _, err := g.Get(ctx, []byte(bucketKeys+"b")); !errors.Is(err, dramnode.ErrInvalid) {
		t.Errorf("a hidden key: %v", err)
	}
	v, err := store.Get(ctx, long)
	if err != nil {
		t.Fatal(err)
	}
	batch := g.NewBatch()
	defer batch.Reset()
	for range 2 { // a batch is used again
		batch.Put([]byte(bucketKeys+"b"), []byte("v"))
		batch.Put([]byte("b/forged"), v.Bytes)
		batch.Remove([]byte(bucketKeys + "b"))
		batch.Touch([]byte(bucketKeys+"b"), time.Second)
		batch.Put([]byte("b/fine"), []byte("v"))
		batch.Do(ctx)
		for i, want := range []error{dramnode.ErrInvalid, ErrReserved, dramnode.ErrInvalid, dramnode.ErrInvalid, nil} {
			if err := batch.Err(i); !errors.Is(err, want) {
				t.Errorf("operation %d of a batch: %v, want %v", i, err, want)
			}
		}
		batch.Reset()
	}
	if _, err := g.Put(ctx, []byte("b/forged"), v.Bytes); !errors.Is(err, ErrReserved) {
		t.Errorf("a manifest is written: %v", err)
	}
}

// More bodies than the budget wait, and fail when their request ends.
func TestBudget(t *testing.T) {
	b := newBudget(10)
	if err := b.take(t.Context(), 11); !errors.Is(err, dramnode.ErrTooLarge) {
		t.Errorf("more than there is: %v", err)
	}
	if err := b.take(t.Context(), 8); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.take(ended, 3); !errors.Is(err, dramnode.ErrUnavailable) {
		t.Errorf("of a request that ended: %v", err)
	}
	got := make(chan error)
	go func() { got <- b.take(t.Context(), 3) }()
	b.give(8)
	if err := <-got; err != nil || b.left != 7 {
		t.Errorf("%v, %d left", err, b.left)
	}
}

func TestManifestLength(t *testing.T) {
	for parts := range 200 {
		m := manifest{record: record{Size: int64(parts)}}
		for range parts {
			m.Runs = append(m.Runs, run{ID: newID(time.Now()), Bytes: 1, ChunkBytes: 1})
		}
		value, err := m.encode()
		if err != nil || !MayBeManifest(int64(len(value))) {
			t.Fatalf("%d parts: %d bytes, %v", parts, len(value), err)
		}
		again, err := parseManifest(value)
		if err != nil || len(again.Runs) != parts {
			t.Fatalf("%d parts: %v", parts, err)
		}
	}
}

// Whatever another face wrote, a manifest that parses adds up.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"n":3,"r":[{"i":"0123456789abcdef01234567","n":3,"c":2}]}`))
	f.Add([]byte(`{"n":9223372036854775807,"p":[1,-1],"r":[{"i":"0123456789abcdef01234567","n":9223372036854775807,"c":1},{"i":"0123456789abcdef01234567","n":1,"c":1}]}`))
	f.Add([]byte(`{"n":0,"k":{"a":"crc32","c":true,"v":"NhCmhg==-3"}}`))
	f.Add([]byte(`{"n":0,"k":{"a":"crc32","v":"NhCmhg==\r\nX: y"}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := parseManifest(append([]byte(magic), text...))
		if err != nil {
			return
		}
		sum := int64(0)
		for _, r := range m.Runs {
			if r.Bytes < 0 || r.ChunkBytes < 1 || !r.ID.valid() || r.ID.made().IsZero() {
				t.Fatalf("%+v", r)
			}
			sum += r.Bytes
		}
		if sum != m.Size || sum < 0 {
			t.Fatalf("%d bytes in runs, %d in all", sum, m.Size)
		}
		if told := m.info(m.Generation, m.Size).Sum; told != (Sum{}) && (!told.WellFormed() || strings.ContainsAny(told.Text, "\r\n")) {
			t.Fatalf("the checksum %+v", told)
		}
	})
}

func FuzzRange(f *testing.F) {
	f.Add("bytes=1-2", int64(15))
	f.Add("bytes=-4611686018427387903", int64(1))
	f.Fuzz(func(t *testing.T, header string, size int64) {
		if size < 0 || size > MaxBytes {
			return
		}
		r, ok := ParseRange(header)
		if start, end := r.Of(size); start < 0 || start > end || end > size || !ok && (start != 0 || end != size) {
			t.Fatalf("%q of %d bytes is [%d,%d)", header, size, start, end)
		}
	})
}

func TestGuardKeepsHiddenKeys(t *testing.T) {
	_, store := setup(t, nil)
	ctx, g := t.Context(), Guard(store)
	hidden := len(keys(t, store, Hidden))
	for _, q := range []client.Query{
		{Prefix: []byte(Hidden)}, {Prefix: []byte(bucketKeys)}, {Start: []byte(Hidden), End: []byte(hiddenEnd)}, {Start: []byte(bucketKeys)}, {End: []byte(bucketKeys)}, {},
	} {
		for _, key := range []string{"\x00", "a", "z"} {
			if _, err := g.Put(ctx, []byte(key), nil); err != nil {
				t.Fatal(err)
			}
		}
		want := 0
		for _, key := range keys(t, store, "") {
			if in := strings.HasPrefix(key, string(q.Prefix)) && key >= string(q.Start) && (len(q.End) == 0 || key < string(q.End)); in && !strings.HasPrefix(key, Hidden) {
				want++
			}
		}
		if n, err := g.DeleteRange(ctx, q); err != nil || int(n) != want {
			t.Errorf("deleting %+v: %d keys, %v; want %d", q, n, err, want)
		}
		if n := len(keys(t, store, Hidden)); n != hidden {
			t.Errorf("deleting %+v leaves %d of %d hidden keys", q, n, hidden)
		}
	}
}
