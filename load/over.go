package load

import (
	"context"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/transport"
)

// Over returns c as a Store that the caller still has to close.
//
// Blocking operations use the calls that suit the length of a value: GetInto and Put up to
// transport.CopyBytes, and GetBuffer and PutBuffer above, whose bytes the network reads and writes where
// they lie. The content of such a buffer is whatever was there before: making it is the application's
// work, not the store's.
func Over(c *client.Client) Store { return over{c} }

type over struct{ client *client.Client }

func (o over) Get(ctx context.Context, key, dst []byte) (int, error) {
	if len(dst) <= transport.CopyBytes {
		v, err := o.client.GetInto(ctx, key, dst)
		return len(v.Bytes), err
	}
	b, meta, err := o.client.GetBuffer(ctx, key)
	if err != nil {
		return 0, err
	}
	b.Release()
	return int(meta.Size), nil
}

func (o over) Put(ctx context.Context, key, value []byte) error {
	if len(value) <= transport.CopyBytes {
		_, err := o.client.Put(ctx, key, value)
		return err
	}
	b, err := o.client.NewBuffer(ctx, len(value))
	if err != nil {
		return err
	}
	_, err = o.client.PutBuffer(ctx, key, b)
	return err
}

// A slot has its two functions made once, so that starting an operation allocates nothing.
type slot struct {
	client *client.Client
	got    func(client.Value, error)
	stored func(dramnode.Generation, error)
}

func (o over) NewSlot(done func(n int, err error)) Slot {
	return &slot{
		client: o.client,
		got:    func(v client.Value, err error) { done(len(v.Bytes), err) },
		stored: func(_ dramnode.Generation, err error) { done(0, err) },
	}
}

func (s *slot) Get(ctx context.Context, key []byte) error { return s.client.GetFunc(ctx, key, s.got) }

func (s *slot) Put(ctx context.Context, key, value []byte) error {
	return s.client.PutFunc(ctx, key, value, s.stored)
}

func (o over) GetAll(ctx context.Context, keys [][]byte, lengths []int, errs []error) {
	for i, r := range o.client.MultiGet(ctx, keys) {
		lengths[i], errs[i] = len(r.Bytes), r.Err
	}
}

func (o over) PutAll(ctx context.Context, keys [][]byte, value []byte, errs []error) {
	items := make([]client.Item, len(keys))
	for i, key := range keys {
		items[i] = client.Item{Key: key, Value: value}
	}
	for i, r := range o.client.MultiPut(ctx, items) {
		errs[i] = r.Err
	}
}

func (o over) Scan(ctx context.Context, prefix, key []byte, n int) (int, error) {
	found := 0
	for _, err := range o.client.List(ctx, client.Query{Prefix: prefix, Start: key, Limit: n}) {
		if err != nil {
			return found, err
		}
		found++
	}
	return found, nil
}

func (o over) Clear(ctx context.Context, prefix []byte) error {
	_, err := o.client.DeleteRange(ctx, client.Query{Prefix: prefix})
	return err
}
