package arena_test

import (
	"context"
	"errors"
	"hash/crc32"
	"strconv"
	"sync"
	"testing"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/gateway/conformance"
	"github.com/dramnode/dramnode/replica"
	"github.com/dramnode/dramnode/storage"
	"github.com/dramnode/dramnode/wire"
)

const adapterPartitions = 7

// An adapter asks the engines of a store themselves: no node, no network and no client in between. What it adds is what a node
// adds, too: the choice of the partition, its lock, and the look at the generation that was read.
type adapter struct {
	store   *storage.Store
	engines []*primary
	locks   *[adapterPartitions]sync.Mutex
}

func partitionOf(key string) uint16 {
	return uint16(crc32.ChecksumIEEE([]byte(key)) % adapterPartitions)
}

func generationOf(g dramnode.Generation) conformance.Generation {
	if g == dramnode.Absent {
		return conformance.NoValue
	}
	return conformance.Generation(strconv.FormatUint(uint64(g), 10))
}

// do has a write executed on condition that its key has a generation.
func (a adapter) do(key string, condition conformance.Generation, request func(*primary) replica.Request) (conformance.Generation, error) {
	at := partitionOf(key)
	a.locks[at].Lock()
	defer a.locks[at].Unlock()
	r := request(a.engines[at])
	r.IfMatch = condition != conformance.Unknown
	if condition != conformance.NoValue {
		g, _ := strconv.ParseUint(string(condition), 10, 64) // generations are what generationOf made
		r.IfGen = dramnode.Generation(g)
	}
	switch reply := a.engines[at].doTo([]byte(key), r); reply.Status {
	case wire.StatusOK:
		return generationOf(reply.Gen), nil
	case wire.StatusGenerationMismatch:
		return conformance.Unknown, nil
	default:
		return conformance.Unknown, reply.Status.Err()
	}
}

// Read implements conformance.Adapter.
func (a adapter) Read(ctx context.Context, r conformance.Read) (conformance.Result, error) {
	at := partitionOf(r.Key)
	a.locks[at].Lock()
	defer a.locks[at].Unlock()
	reply := a.engines[at].doTo([]byte(r.Key), replica.Request{Kind: wire.KindGet})
	if reply.Status == wire.StatusNotFound {
		return conformance.Result{State: conformance.Missing, Generation: conformance.NoValue}, ctx.Err()
	}
	v := a.engines[at].store.Bytes(uint64(reply.Value.Blob))
	got := conformance.Result{State: conformance.Value, Generation: generationOf(reply.Gen)}
	if r.IfEqual != conformance.Unknown && r.IfEqual != got.Generation || r.IfNotEqual != conformance.Unknown && r.IfNotEqual == got.Generation {
		got.State = conformance.Aborted
		return got, ctx.Err()
	}
	size := int64(len(v))
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
	got.Bytes = append(got.Bytes, v[from:to]...)
	return got, ctx.Err()
}

// Write implements conformance.Adapter.
func (a adapter) Write(_ context.Context, key string, value []byte, condition conformance.Generation) (conformance.Generation, error) {
	return a.do(key, condition, func(p *primary) replica.Request { return p.lend(value) })
}

// Delete implements conformance.Adapter.
func (a adapter) Delete(_ context.Context, key string, condition conformance.Generation) (conformance.Generation, error) {
	return a.do(key, condition, func(*primary) replica.Request { return replica.Request{Kind: wire.KindDelete} })
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

// The rules that every face keeps hold for engine and store; and nothing is leaked while they keep them.
func TestConformance(t *testing.T) {
	s, engines := open(t, storage.Config{Arena: make([]byte, 64<<20), Partitions: adapterPartitions, MaxValueBytes: 8 << 20})
	conformance.Run(t, adapter{s, engines, new([adapterPartitions]sync.Mutex)})
	if err := s.Check(); err != nil {
		t.Error(err)
	}
	if st := s.Stats(); st.Entries+st.Leases+st.Reservations+st.Tombstones != 0 {
		t.Errorf("left over is %+v", st)
	}
}
