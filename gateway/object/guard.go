package object

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/gateway"
)

// ErrChunked is returned by a guarded store for an object that lies in chunks.
var ErrChunked = errors.New("object: it lies in chunks, which only the S3 and GCS faces put together")

// Guard returns s for faces that know no objects: it hides what this package keeps beside them, and reading an
// object that lies in chunks fails with ErrChunked instead of showing the manifest. Writing and removing such an
// object works; the sweep finds its chunks.
func Guard(s gateway.Store) gateway.Store { return guard{s} }

type guard struct{ gateway.Store }

func hidden(key []byte) bool { return strings.HasPrefix(string(key), Hidden) }

func refuseHidden(key []byte) error {
	if hidden(key) {
		return fmt.Errorf("%w: keys that begin with %q belong to the S3 and GCS faces", dramnode.ErrInvalid, Hidden)
	}
	return nil
}

// whole fails with ErrChunked when the value that was read, or a part of it, is a manifest's.
func (g guard) whole(ctx context.Context, key, read []byte, m client.Meta) error {
	if !MayBeManifest(m.Size) {
		return nil
	}
	if int64(len(read)) < m.Size {
		v, err := g.Store.Get(ctx, key, client.Range(0, int64(len(magic))), client.Clip(), client.IfGeneration(m.Generation))
		if errors.Is(err, dramnode.ErrGenerationMismatch) || errors.Is(err, dramnode.ErrNotFound) {
			return fmt.Errorf("%w: the value changed while it was read", dramnode.ErrUnavailable)
		}
		if err != nil {
			return err
		}
		read = v.Bytes
	}
	if IsManifest(read) {
		return fmt.Errorf("%w: %q", ErrChunked, key)
	}
	return nil
}

// Get implements gateway.Store.
func (g guard) Get(ctx context.Context, key []byte, opts ...client.Option) (client.Value, error) {
	if err := refuseHidden(key); err != nil {
		return client.Value{}, err
	}
	v, err := g.Store.Get(ctx, key, opts...)
	if err == nil {
		err = g.whole(ctx, key, v.Bytes, v.Meta)
	}
	if err != nil {
		return client.Value{}, err
	}
	return v, nil
}

// GetBuffer implements gateway.Store.
func (g guard) GetBuffer(ctx context.Context, key []byte, opts ...client.Option) (*client.Buffer, client.Meta, error) {
	if err := refuseHidden(key); err != nil {
		return nil, client.Meta{}, err
	}
	b, m, err := g.Store.GetBuffer(ctx, key, opts...)
	if err != nil {
		return nil, m, err
	}
	if err := g.whole(ctx, key, b.Bytes(), m); err != nil {
		b.Release()
		return nil, client.Meta{}, err
	}
	return b, m, nil
}

// Stat implements gateway.Store.
func (g guard) Stat(ctx context.Context, key []byte) (client.Meta, error) {
	if err := refuseHidden(key); err != nil {
		return client.Meta{}, err
	}
	m, err := g.Store.Stat(ctx, key)
	if err == nil {
		err = g.whole(ctx, key, nil, m)
	}
	return m, err
}

// MultiGet implements gateway.Store.
func (g guard) MultiGet(ctx context.Context, keys [][]byte, opts ...client.Option) []client.GetResult {
	results := g.Store.MultiGet(ctx, keys, opts...)
	for i := range results {
		r := &results[i]
		err := refuseHidden(keys[i])
		if err == nil && r.Err == nil {
			err = g.whole(ctx, keys[i], r.Bytes, r.Meta)
		}
		if err != nil {
			*r = client.GetResult{Err: err}
		}
	}
	return results
}

// PutBuffer implements gateway.Store.
func (g guard) PutBuffer(ctx context.Context, key []byte, b *client.Buffer, opts ...client.Option) (dramnode.Generation, error) {
	if err := errors.Join(refuseHidden(key), refuseManifest(b.Bytes())); err != nil {
		b.Release()
		return 0, err
	}
	return g.Store.PutBuffer(ctx, key, b, opts...)
}

// Put implements gateway.Store.
func (g guard) Put(ctx context.Context, key, value []byte, opts ...client.Option) (dramnode.Generation, error) {
	if err := errors.Join(refuseHidden(key), refuseManifest(value)); err != nil {
		return 0, err
	}
	return g.Store.Put(ctx, key, value, opts...)
}

func refuseManifest(value []byte) error {
	if MayBeManifest(int64(len(value))) && IsManifest(value) {
		return fmt.Errorf("%w: %w", dramnode.ErrInvalid, ErrReserved)
	}
	return nil
}

// MultiPut implements gateway.Store.
func (g guard) MultiPut(ctx context.Context, items []client.Item) []client.PutResult {
	for i, it := range items {
		if err := errors.Join(refuseHidden(it.Key), refuseManifest(it.Value)); err != nil {
			results := make([]client.PutResult, len(items))
			for k := range results {
				results[k].Err = fmt.Errorf("item %d: %w", i, err)
			}
			return results
		}
	}
	return g.Store.MultiPut(ctx, items)
}

// NewBatch implements gateway.Store.
func (g guard) NewBatch() *client.Batch {
	b := g.Store.NewBatch()
	b.Vet(func(key, read []byte, m client.Meta) error {
		if err := refuseHidden(key); err != nil {
			return err
		}
		return g.whole(context.Background(), key, read, m)
	})
	b.Allow(func(key, value []byte) error { return errors.Join(refuseHidden(key), refuseManifest(value)) })
	return b
}

// Touch implements gateway.Store.
func (g guard) Touch(ctx context.Context, key []byte, life time.Duration, opts ...client.Option) (dramnode.Generation, error) {
	if err := refuseHidden(key); err != nil {
		return 0, err
	}
	return g.Store.Touch(ctx, key, life, opts...)
}

// Remove implements gateway.Store.
func (g guard) Remove(ctx context.Context, key []byte, opts ...client.Option) (dramnode.Generation, error) {
	if err := refuseHidden(key); err != nil {
		return 0, err
	}
	return g.Store.Remove(ctx, key, opts...)
}

// List implements gateway.Store.
func (g guard) List(ctx context.Context, q client.Query) iter.Seq2[client.Entry, error] {
	limit := q.Limit
	if string(q.After) < hiddenEnd && string(q.Start) < hiddenEnd && string(q.Prefix) < hiddenEnd {
		q.Limit = 0 // hidden keys may be in the way, and do not count
	}
	return func(yield func(client.Entry, error) bool) {
		given := 0
		for e, err := range g.Store.List(ctx, q) {
			if err == nil && hidden(e.Key) {
				continue
			}
			if !yield(e, err) || err != nil {
				return
			}
			if given++; given == limit {
				return
			}
		}
	}
}

// DeleteRange implements gateway.Store. Hidden keys stay.
func (g guard) DeleteRange(ctx context.Context, q client.Query) (deleted uint64, err error) {
	before, after := q, q
	if len(q.End) == 0 || string(q.End) > Hidden {
		before.End = []byte(Hidden)
	}
	if string(q.Start) < hiddenEnd {
		after.Start = []byte(hiddenEnd)
	}
	for _, part := range []client.Query{before, after} {
		if len(part.End) > 0 && max(string(part.Start), string(part.Prefix)) >= string(part.End) {
			continue
		}
		n, err := g.Store.DeleteRange(ctx, part)
		deleted += n
		if err != nil {
			return deleted, err
		}
	}
	return deleted, nil
}

// hiddenEnd is the first key behind the hidden ones.
const hiddenEnd = "\x00object0"
