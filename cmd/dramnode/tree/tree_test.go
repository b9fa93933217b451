package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dramnode/dramnode"
)

// fakeStore is a map; put may refuse.
type fakeStore struct {
	mu     sync.Mutex
	values map[string][]byte
	put    func(key string) error
	hidden string // listed, but gone when it is read

	listErr error // ends Keys
}

func newStore(pairs ...string) *fakeStore {
	s := &fakeStore{values: make(map[string][]byte)}
	for i := 0; i < len(pairs); i += 2 {
		s.values[pairs[i]] = []byte(pairs[i+1])
	}
	return s
}

func (s *fakeStore) Put(_ context.Context, key, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.put != nil {
		if err := s.put(string(key)); err != nil {
			return err
		}
	}
	s.values[string(key)] = bytes.Clone(value)
	return nil
}

func (s *fakeStore) Get(_ context.Context, key []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok := s.values[string(key)]
	if !ok || string(key) == s.hidden {
		return nil, dramnode.ErrNotFound
	}
	return value, nil
}

func (s *fakeStore) Keys(ctx context.Context, prefix []byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for _, key := range slices.Sorted(maps.Keys(s.values)) {
			if ctx.Err() != nil {
				yield(nil, ctx.Err())
				return
			}
			if strings.HasPrefix(key, string(prefix)) && !yield([]byte(key), nil) {
				return
			}
		}
		if s.listErr != nil {
			yield(nil, s.listErr)
		}
	}
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func TestRoundTrip(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "made", "here")
	store := newStore("other/key", "not ours")
	for i := range 50 {
		write(t, from, fmt.Sprintf("d%d/file %d", i%7, i), strings.Repeat("x", i*100))
	}
	var progress Progress
	in, err := Import(context.Background(), store, from, "p/", Options{Parallel: 3, Progress: &progress})
	if err != nil || in.Err() != nil || in.Files != 50 || in.Bytes != 122500 {
		t.Fatalf("import: %+v, %v", in, err)
	}
	if progress.TotalFiles.Load() != 50 || progress.TotalBytes.Load() != 122500 || progress.Bytes.Load() != 122500 {
		t.Errorf("progress: %d files, %d bytes in total, %d copied", progress.TotalFiles.Load(), progress.TotalBytes.Load(), progress.Bytes.Load())
	}
	out, err := Export(context.Background(), store, "p/", to, Options{})
	if err != nil || out.Err() != nil || out.Files != 50 || out.Bytes != 122500 {
		t.Fatalf("export: %+v, %v", out, err)
	}
	err = os.CopyFS(filepath.Join(t.TempDir(), "copy"), os.DirFS(to))
	if err != nil {
		t.Fatal(err)
	}
	files := 0
	err = filepath.WalkDir(to, func(file string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files++
		rel, err := filepath.Rel(to, file)
		if err != nil {
			return err
		}
		got, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if want := store.values["p/"+rel]; !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, want %d", rel, len(got), len(want))
		}
		return nil
	})
	if err != nil || files != 50 {
		t.Errorf("%d files, %v: a temporary one was left, or one is missing", files, err)
	}
}

func TestImportReports(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "good", "1")
	write(t, dir, "big", strings.Repeat("x", 11))
	write(t, dir, "refused", "1")
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	store := newStore()
	store.put = func(key string) error {
		if key == "refused" {
			return dramnode.ErrNoMemory
		}
		return nil
	}
	s, err := Import(context.Background(), store, dir, "", Options{MaxValueBytes: 10})
	if err != nil {
		t.Fatal(err)
	}
	if s.Files != 1 || s.Skipped != 1 || s.Skips[0].Path != "link" || !errors.Is(s.Skips[0].Err, ErrNotRegular) {
		t.Errorf("%+v", s)
	}
	got := map[string]error{}
	for _, f := range s.Failed {
		got[f.Path] = f.Err
	}
	if len(got) != 2 || !errors.Is(got["big"], dramnode.ErrTooLarge) || !errors.Is(got["refused"], dramnode.ErrNoMemory) {
		t.Errorf("failures %v", got)
	}
	if s.Err() == nil {
		t.Error("no error for a copy with failures")
	}
	if _, err := Import(context.Background(), store, filepath.Join(dir, "missing"), "", Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing directory: %v", err)
	}
}

func TestImportStopsAfterMaxFailures(t *testing.T) {
	dir := t.TempDir()
	for i := range 3 * MaxFailures {
		write(t, dir, fmt.Sprint(i), "x")
	}
	store, puts := newStore(), 0
	store.put = func(string) error { puts++; return dramnode.ErrUnavailable }
	s, err := Import(context.Background(), store, dir, "", Options{Parallel: 2})
	if err != nil || len(s.Failed) != MaxFailures || !errors.Is(s.Err(), dramnode.ErrUnavailable) || puts > MaxFailures+4 {
		t.Errorf("%d failures after %d puts, %v, %v", len(s.Failed), puts, s.Err(), err)
	}
}

func TestCancelled(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "file", "x")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if s, err := Import(ctx, newStore(), dir, "", Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("import: %+v, %v", s, err)
	}
	if s, err := Export(ctx, newStore("a", "1"), "", t.TempDir(), Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("export: %+v, %v", s, err)
	}
}

func TestFileName(t *testing.T) {
	for _, c := range []struct{ key, prefix, want string }{
		{"a", "", "a"},
		{"p/a/b c", "p/", "a/b c"},
		{"pa", "p", "a"},
		{"p/..a", "p/", "..a"},
		{"p/a\xff\n", "p/", "a\xff\n"},
		{"p/\\", "p/", "\\"},
	} {
		if got, err := fileName(c.key, c.prefix); got != c.want || err != nil {
			t.Errorf("fileName(%q, %q) = %q, %v, want %q", c.key, c.prefix, got, err, c.want)
		}
	}
	for _, key := range []string{
		"", "..", ".", "/", "/etc/passwd", "../x", "a/../../x", "a/..", "a/../b", "./a", "a//b", "a/", "a/.", "a\x00b",
	} {
		if got, err := fileName("p:"+key, "p:"); !errors.Is(err, ErrUnsafeKey) {
			t.Errorf("fileName of %q = %q, %v, want ErrUnsafeKey", key, got, err)
		}
	}
}

// Neither keys nor links inside the directory lead out of it.
func TestExportStaysInside(t *testing.T) {
	outer := t.TempDir()
	dir := filepath.Join(outer, "in", "side")
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.Symlink(outer, filepath.Join(dir, "link"))); err != nil {
		t.Fatal(err)
	}
	store := newStore("../x", "1", "../../x", "1", "/x", "1", "link/x", "1", "link", "a file now", "good", "1")
	s, err := Export(context.Background(), store, "", dir, Options{Parallel: 1})
	if err != nil || s.Files != 2 || len(s.Failed) != 4 {
		t.Errorf("%+v, %v", s, err)
	}
	entries, err := os.ReadDir(outer)
	if err != nil || len(entries) != 1 {
		t.Errorf("outside: %v, %v", entries, err)
	}
}

func TestExportSkipsTheVanished(t *testing.T) {
	store := newStore("a", "1", "b", "2")
	store.hidden = "a"
	s, err := Export(context.Background(), store, "", t.TempDir(), Options{})
	if err != nil || s.Err() != nil || s.Files != 1 || s.Skipped != 1 || s.Skips[0].Path != "a" {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestExportReplacesAndCollides(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a", "old, longer")
	store := newStore("a", "new", "a/b", "cannot be: a is a file")
	s, err := Export(context.Background(), store, "", dir, Options{Parallel: 1})
	if err != nil || s.Files != 1 || len(s.Failed) != 1 || s.Failed[0].Path != "a/b" {
		t.Errorf("%+v, %v", s, err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "a")); string(got) != "new" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// A list that breaks off must not look like a complete export.
func TestExportReportsABrokenList(t *testing.T) {
	store := newStore("a", "1")
	store.listErr = dramnode.ErrUnavailable
	if s, err := Export(context.Background(), store, "", t.TempDir(), Options{}); !errors.Is(err, dramnode.ErrUnavailable) || s.Files != 1 {
		t.Errorf("%+v, %v", s, err)
	}
}

// The files of /proc say that they are empty. They must not become empty values.
func TestImportOfFilesLongerThanTheySay(t *testing.T) {
	dir := "/proc/self/net"
	if _, err := os.Stat(filepath.Join(dir, "dev")); err != nil {
		t.Skipf("no file of that kind: %v", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if value, err := readFile(root, "dev", 1<<20); !errors.Is(err, errChanged) {
		t.Errorf("%d bytes, %v", len(value), err)
	}
}
