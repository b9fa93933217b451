// Package fake is a store in a map, for the tests of the examples.
package fake

import (
	"bytes"
	"cmp"
	"context"
	"iter"
	"slices"
	"strings"
	"sync"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
)

// A Store keeps values like a cluster does, so far as the examples need it. The zero Store is empty.
type Store struct {
	// PutErr, if set, is asked before each Put whether it shall fail, and whether it is applied still.
	PutErr func(key string) (err error, applied bool)

	mu     sync.Mutex
	values map[string]client.Value
	last   dramnode.Generation
}

// Get returns a copy of a value.
func (s *Store) Get(_ context.Context, key []byte, _ ...client.Option) (client.Value, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.values[string(key)]
	if !ok {
		return client.Value{}, dramnode.ErrNotFound
	}
	v.Bytes = bytes.Clone(v.Bytes)
	return v, nil
}

// Put understands IfGeneration and IfAbsent.
func (s *Store) Put(_ context.Context, key, value []byte, opts ...client.Option) (dramnode.Generation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var failure error
	if s.PutErr != nil {
		err, applied := s.PutErr(string(key))
		if failure = err; err != nil && !applied {
			return 0, err
		}
	}
	if err := s.checkLocked(key, opts); err != nil {
		return 0, err
	}
	if s.values == nil {
		s.values = map[string]client.Value{}
	}
	s.last++
	s.values[string(key)] = client.Value{Bytes: bytes.Clone(value), Meta: client.Meta{Generation: s.last, Size: int64(len(value))}}
	return s.last, failure
}

// Delete understands IfGeneration.
func (s *Store) Delete(_ context.Context, key []byte, opts ...client.Option) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.checkLocked(key, opts); err != nil {
		return err
	}
	delete(s.values, string(key))
	return nil
}

func (s *Store) checkLocked(key []byte, opts []client.Option) error {
	for g := range s.last + 1 {
		if current := s.values[string(key)].Generation; slices.Contains(opts, client.IfGeneration(g)) && g != current {
			return &dramnode.GenerationError{Current: current}
		}
	}
	return nil
}

// List understands Query.Prefix.
func (s *Store) List(_ context.Context, q client.Query) iter.Seq2[client.Entry, error] {
	s.mu.Lock()
	defer s.mu.Unlock()
	var entries []client.Entry
	for key, v := range s.values {
		if strings.HasPrefix(key, string(q.Prefix)) {
			entries = append(entries, client.Entry{Key: []byte(key), Generation: v.Generation, Size: v.Size})
		}
	}
	slices.SortFunc(entries, func(a, b client.Entry) int { return cmp.Compare(string(a.Key), string(b.Key)) })
	return func(yield func(client.Entry, error) bool) {
		for _, e := range entries {
			if !yield(e, nil) {
				return
			}
		}
	}
}

// MultiPut is Put for each item.
func (s *Store) MultiPut(ctx context.Context, items []client.Item) []client.PutResult {
	results := make([]client.PutResult, len(items))
	for i, it := range items {
		results[i].Generation, results[i].Err = s.Put(ctx, it.Key, it.Value, it.Options...)
	}
	return results
}
