package storage_test

import (
	"context"
	"errors"
	"hash/crc32"
	"strconv"
	"testing"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/gateway/conformance"
	"github.com/dramnode/dramnode/storage"
)

const (
	adapterPartitions = 7
	adapterEpoch      = 1
)

// An adapter asks a store itself: no node, no network and no client in between. What it adds is what a node adds, too:
// the choice of the partition, and the look at the generation that was read.
type adapter struct{ store *storage.Store }

func partitionOf(key string) uint16 {
	return uint16(crc32.ChecksumIEEE([]byte(key)) % adapterPartitions)
}

func generationOf(g dramnode.Generation) conformance.Generation {
	if g == dramnode.Absent {
		return conformance.NoValue
	}
	return conformance.Generation(strconv.FormatUint(uint64(g), 10))
}

// conditional is a write on condition that the key has a generation.
func conditional(condition conformance.Generation) storage.Write {
	w := storage.Write{Epoch: adapterEpoch, IfMatch: condition != conformance.Unknown}
	if condition != conformance.NoValue {
		g, _ := strconv.ParseUint(string(condition), 10, 64) // generations are what generationOf made
		w.IfGeneration = dramnode.Generation(g)
	}
	return w
}

func outcome(r storage.Result, err error) (conformance.Generation, error) {
	if errors.Is(err, dramnode.ErrGenerationMismatch) {
		return conformance.Unknown, nil
	}
	return generationOf(r.Generation), err
}

// Read implements conformance.Adapter.
func (a adapter) Read(ctx context.Context, r conformance.Read) (conformance.Result, error) {
	v, ok := a.store.Get(partitionOf(r.Key), []byte(r.Key), 0)
	if !ok {
		return conformance.Result{State: conformance.Missing, Generation: conformance.NoValue}, ctx.Err()
	}
	defer a.store.Release(v.Lease)
	got := conformance.Result{State: conformance.Value, Generation: generationOf(v.Generation)}
	if r.IfEqual != conformance.Unknown && r.IfEqual != got.Generation || r.IfNotEqual != conformance.Unknown && r.IfNotEqual == got.Generation {
		got.State = conformance.Aborted
		return got, ctx.Err()
	}
	size := int64(v.ValueBytes)
	from, to := r.Start, r.End
	switch {
	case r.Whole:
		from, to = 0, size
	case r.Last > 0:
		from, to = size-r.Last, size
	case to == conformance.All:
		to = size
	}
	if from < 0 || from > to || to > size {
		return conformance.Result{}, dramnode.ErrOutOfRange
	}
	got.Bytes = append(got.Bytes, v.Bytes[from:to]...)
	return got, ctx.Err()
}

// Write implements conformance.Adapter.
func (a adapter) Write(_ context.Context, key string, value []byte, condition conformance.Generation) (conformance.Generation, error) {
	return outcome(a.store.Put(partitionOf(key), []byte(key), value, conditional(condition)))
}

// Delete implements conformance.Adapter.
func (a adapter) Delete(_ context.Context, key string, condition conformance.Generation) (conformance.Generation, error) {
	return outcome(a.store.Delete(partitionOf(key), []byte(key), conditional(condition)))
}

// DeleteRange implements conformance.Adapter.
func (a adapter) DeleteRange(ctx context.Context, min, max string) error {
	var keys []string
	err := a.List(ctx, min, max, func(e conformance.Entry) bool {
		keys = append(keys, e.Key)
		return true
	})
	for _, key := range keys {
		_, deleteErr := a.Delete(ctx, key, conformance.Unknown)
		err = errors.Join(err, deleteErr)
	}
	return err
}

// List implements conformance.Adapter.
func (a adapter) List(ctx context.Context, min, max string, yield func(conformance.Entry) bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l := storage.Listing{Start: []byte(min)}
	if max != "" {
		l.End = []byte(max)
	}
	a.store.List(l, func(e storage.Entry) bool {
		return yield(conformance.Entry{Key: string(e.Key), Size: int64(e.ValueBytes)})
	})
	return nil
}

// Foreign implements conformance.Adapter.
func (a adapter) Foreign() conformance.Generation { return generationOf(1415926535897932) }

// Lacks implements conformance.Adapter.
func (a adapter) Lacks(f conformance.Feature) string {
	if f == conformance.ServerTime {
		return "a read of memory is current, and does not tell the time"
	}
	return ""
}

// The rules that every face keeps hold for the store itself; and that it leaks nothing while it keeps them.
func TestConformance(t *testing.T) {
	s, err := storage.New(storage.Config{Arena: make([]byte, 64<<20), Partitions: adapterPartitions, MaxValueBytes: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	conformance.Run(t, adapter{s})
	if err := s.Check(); err != nil {
		t.Error(err)
	}
	if st := s.Stats(); st.Entries != 0 || st.Leases != 0 {
		t.Errorf("%d entries and %d leases are left", st.Entries, st.Leases)
	}
}
