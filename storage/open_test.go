package storage

import (
	"sync"
	"testing"

	"github.com/dramnode/dramnode"
)

// An opened store has all of its partitions open, and numbers their versions, as a node does.
type opened struct {
	*Store
	parts []part
}

type part struct {
	mu sync.Mutex // one writer at a time
	*Versions
	last dramnode.Generation
}

// lendMax is the length up to which put lends a value, as a node does.
const lendMax = 4 << 10

func openAll(tb testing.TB, c Config) *opened {
	tb.Helper()
	s, err := New(c)
	if err != nil {
		tb.Fatal(err)
	}
	o := &opened{Store: s, parts: make([]part, c.Partitions)}
	for p := range o.parts {
		o.parts[p].Versions, err = s.Versions(uint16(p))
		if err != nil {
			tb.Fatal(err)
		}
	}
	return o
}

func open(tb testing.TB, arenaBytes int) *opened {
	tb.Helper()
	return openAll(tb, Config{Arena: make([]byte, arenaBytes), Partitions: 8, MaxValueBytes: 1 << 20})
}

// next numbers a version.
func (p *part) next(like Info) Info {
	p.last++
	like.Generation = p.last
	return like
}

// put writes a copy of value at once, with the CRC and the deadline of like.
func (o *opened) put(p uint16, key, value []byte, like Info) error {
	pt := &o.parts[p]
	pt.mu.Lock()
	defer pt.mu.Unlock()
	defer pt.Settle()
	if len(value) <= lendMax {
		return pt.Write(key, 0, Version{Info: pt.next(like), Blob: pt.Lend(value)})
	}
	r, err := pt.Reserve(len(key), len(value), false)
	if err != nil {
		return err
	}
	copy(r.Bytes, value)
	if err = pt.Write(key, 0, Version{Info: pt.next(like), Blob: r.Token()}); err != nil {
		pt.Free(r.Token())
	}
	return err
}

// touch stages and commits the value that there is with another deadline.
func (o *opened) touch(p uint16, key []byte, deadline int64) error {
	pt := &o.parts[p]
	pt.mu.Lock()
	defer pt.mu.Unlock()
	defer pt.Settle()
	committed, _ := pt.Get(key)
	if committed.Generation == 0 || committed.Deleted {
		return dramnode.ErrNotFound
	}
	st := Staged{Version: Version{Info: pt.next(Info{CRC: committed.CRC, Deadline: deadline}), Blob: committed.Blob}}
	if err := pt.Stage(key, st); err != nil {
		return err
	}
	pt.Commit(key)
	return nil
}

// del deletes at once.
func (o *opened) del(p uint16, key []byte) error {
	pt := &o.parts[p]
	pt.mu.Lock()
	defer pt.mu.Unlock()
	defer pt.Settle()
	return pt.Write(key, 0, Version{Info: pt.next(Info{}), Deleted: true})
}

// bury stages and commits a delete, which leaves a tombstone.
func (o *opened) bury(p uint16, key []byte) error {
	pt := &o.parts[p]
	pt.mu.Lock()
	defer pt.mu.Unlock()
	defer pt.Settle()
	if err := pt.Stage(key, Staged{Version: Version{Info: pt.next(Info{}), Deleted: true}}); err != nil {
		return err
	}
	pt.Commit(key)
	return nil
}

// expire removes at most budget of the entries that are overdue, and returns how many.
func (o *opened) expire(p uint16, now int64, budget int) int {
	pt := &o.parts[p]
	pt.mu.Lock()
	defer pt.mu.Unlock()
	defer pt.Settle()
	var keys [][]byte
	pt.Expired(now, func(key []byte) bool {
		if len(keys) < budget {
			keys = append(keys, append([]byte{}, key...))
		}
		return len(keys) < budget
	})
	for _, key := range keys {
		if err := pt.Apply(key, Version{}); err != nil {
			panic(err)
		}
	}
	return len(keys)
}

func (o *opened) drop(p uint16) {
	pt := &o.parts[p]
	pt.mu.Lock()
	defer pt.mu.Unlock()
	pt.Clear()
	pt.Settle()
}

// checkAmidst checks while others read and write. Nobody writes meanwhile: a record that is being reserved has no lock.
func (o *opened) checkAmidst() error {
	for p := range o.parts {
		o.parts[p].mu.Lock()
		defer o.parts[p].mu.Unlock()
	}
	return o.Check()
}

// get reads with a lease.
func (o *opened) get(p uint16, key []byte, now int64) (Value, bool) {
	return o.getInto(nil, p, key, now)
}

func (o *opened) getInto(dst []byte, p uint16, key []byte, now int64) (Value, bool) {
	v, found, _ := read(o.parts[p].Versions, dst, key, now)
	return v, found == Found
}

func read(v *Versions, dst, key []byte, now int64) (value Value, found Finding, staged bool) {
	found, staged = v.Read(&value, dst, key, now)
	return value, found, staged
}

func check(tb testing.TB, s interface{ Check() error }) {
	tb.Helper()
	if err := s.Check(); err != nil {
		tb.Fatal(err)
	}
}

func mustSucceed(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Error(err)
	}
}

func mustPut(tb testing.TB, s *opened, p uint16, key, value string, like Info) dramnode.Generation {
	tb.Helper()
	if err := s.put(p, []byte(key), []byte(value), like); err != nil {
		tb.Fatalf("put of %q: %v", key, err)
	}
	return s.parts[p].last
}

func mustGet(tb testing.TB, s *opened, p uint16, key string, now int64) string {
	tb.Helper()
	v, ok := s.get(p, []byte(key), now)
	if !ok {
		return "(missing)"
	}
	defer s.Release(v.Lease)
	if len(v.Bytes) != v.ValueBytes {
		tb.Errorf("%q has %d bytes and says %d", key, len(v.Bytes), v.ValueBytes)
	}
	return string(v.Bytes)
}
