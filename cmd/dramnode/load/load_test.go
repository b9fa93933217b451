package load

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/dramnode/dramnode"
)

type fakeStore struct {
	mu     sync.Mutex
	values map[string][]byte
	err    error
}

func (s *fakeStore) Put(_ context.Context, key, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.values[string(key)] = bytes.Clone(value)
	return s.err
}

func (s *fakeStore) GetInto(_ context.Context, key, dst []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok := s.values[string(key)]
	if !ok {
		return 0, dramnode.ErrNotFound
	}
	return copy(dst, value), s.err
}

func (s *fakeStore) Delete(_ context.Context, key []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.values, string(key))
	return s.err
}

func TestBench(t *testing.T) {
	store := &fakeStore{values: map[string][]byte{"other": nil}}
	b := New(store, Config{Prefix: "b/", Keys: 10, ValueBytes: 13, Concurrency: 3, Duration: 20 * time.Millisecond})
	ctx := context.Background()
	if err := b.Validate(); err != nil {
		t.Fatal(err)
	}
	if err := b.Fill(ctx); err != nil || len(store.values) != 11 || len(store.values["b/0000009"]) != 13 {
		t.Fatalf("%v, %d keys", err, len(store.values))
	}
	for _, r := range []Result{b.Puts(ctx), b.Gets(ctx)} {
		if r.Ops == 0 || r.Errors != 0 || r.Bytes != 13*r.Ops || r.Took < b.Duration || r.Latencies.TotalCount() != r.Ops {
			t.Errorf("%+v", r)
		}
		if r.Quantile(50) > r.Quantile(99.9) || r.OpsPerSecond() <= 0 || r.GBPerSecond() <= 0 {
			t.Errorf("%s: p50 %v, p99.9 %v", r.Phase, r.Quantile(50), r.Quantile(99.9))
		}
	}
	if err := b.Clear(ctx); err != nil || len(store.values) != 1 {
		t.Errorf("%v, %d keys left, want only the other", err, len(store.values))
	}
}

func TestErrorsEndAPhase(t *testing.T) {
	store := &fakeStore{values: map[string][]byte{}, err: dramnode.ErrBusy}
	b := New(store, Config{Keys: 1, Concurrency: 2, Duration: time.Hour})
	r := b.Puts(context.Background())
	if r.Ops != 0 || r.Errors != 2*maxErrors || !errors.Is(r.First, dramnode.ErrBusy) {
		t.Errorf("%+v", r)
	}
	if err := b.Fill(context.Background()); !errors.Is(err, dramnode.ErrBusy) {
		t.Errorf("fill: %v", err)
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []Config{
		{Keys: 0, Concurrency: 1, Duration: 1},
		{Keys: MaxKeys + 1, Concurrency: 1, Duration: 1},
		{Keys: 1, Concurrency: MaxConcurrency + 1, Duration: 1},
		{Keys: 1, Concurrency: 1},
		{Keys: 1, Concurrency: 1, Duration: 1, ValueBytes: -1},
	} {
		if err := c.Validate(); !errors.Is(err, dramnode.ErrInvalid) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
