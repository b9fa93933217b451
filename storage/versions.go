package storage

import (
	"bytes"
	"fmt"
	"math/bits"
	"slices"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/internal/invariant"
)

// Versions is one partition: per key a committed version, which may be a tombstone, and
// beside it at most one staged version. A value's bytes land once, in a reservation, and stay where they are from stage to
// commit to the last lease. Store.List sees the committed values.
//
// It is written by one goroutine at a time. Eviction leaves it alone unless it is evictable.
// What a method drops can be read until Settle, and what Get or Committed told of is not evicted before.
//
// A staged version is a note in the arena: a record that is never live, with the staged generation and deadline, and in
// place of a value the words below. It stands in the order, and among the deadlines, for what the commit will put there, so that
// a commit replaces and needs no memory. A note of a delete becomes the tombstone.
type Versions struct {
	store     *Store
	shard     *shard
	partition uint16
	dropped   []Lease // since the last Settle
	lent      []byte  // until the next
}

// lentBlob is the blob of the value that is lent; no record is there.
const lentBlob = 1

// What a note has in place of a value.
const (
	noteValue = 0 // handle of the record with the staged value, none of a delete. It may be the committed record
	noteTag   = 8
	noteBytes = noteTag + 8*len(Tag{})

	tombNext = 0 // handles: the tombstones of a partition, ascending by generation
	tombPrev = 8
)

// A Tag is what the caller keeps with a staged version.
type Tag [3]uint64

// A Version is one version of a key; the zero Version is none.
type Version struct {
	Info
	Blob    uint64 // what Bytes and Lease take; 0 is the empty value
	Deleted bool
}

// A Staged is a version that is not committed yet.
type Staged struct {
	Version
	Tag Tag
}

const (
	// spareShare of the arena is kept for what must not fail: staging what others have staged already.
	spareShare = 32
	// lookMax limits the records of other partitions that a scan or a listing looks at under one lock.
	lookMax = 16 * stepRecords
)

// Versions opens the partition p, once and for good.
func (s *Store) Versions(p uint16) (*Versions, error) {
	if err := s.checkPartition(p); err != nil {
		return nil, err
	}
	sh, pt := s.shard(p), &s.partitions[p]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if pt.opened {
		return nil, fmt.Errorf("storage: %w: partition %d is open already", dramnode.ErrInvalid, p)
	}
	pt.opened = true
	return &Versions{store: s, shard: sh, partition: p}, nil
}

// Reserve returns memory for a value of a key of so many bytes; its Token is the value's Blob. Unless it is
// urgent a part of the arena stays free.
func (v *Versions) Reserve(keyBytes, valueBytes int, urgent bool) (Reservation, error) {
	if keyBytes > dramnode.MaxKeyBytes {
		return Reservation{}, fmt.Errorf("storage: %w: a key of %d bytes", dramnode.ErrInvalid, keyBytes)
	}
	if err := v.store.checkValue(valueBytes); err != nil {
		return Reservation{}, err
	}
	if !urgent {
		if err := v.spare(valueBytes); err != nil {
			return Reservation{}, err
		}
	}
	return v.store.reserve(keyBytes, valueBytes)
}

// Evictable says whether committed values may be evicted from now on, to make room for any write. At first they may not.
func (v *Versions) Evictable(may bool) {
	v.shard.mu.Lock()
	defer v.shard.mu.Unlock()
	v.store.partitions[v.partition].evictable = may
}

// spare refuses a value for which too little of the arena would stay free. What cannot be refused evicts others, where that is allowed.
func (v *Versions) spare(valueBytes int) error {
	if v.store.config.Eviction != EvictNone {
		return nil
	}
	free, count := v.store.mem.pool.free()
	if free-v.store.mem.pagesFor(valueBytes) < count/spareShare {
		return fmt.Errorf("storage: %w: %d bytes, and %d of %d pages are free", dramnode.ErrNoMemory, valueBytes, free, count)
	}
	return nil
}

// Lend makes value a blob until Settle, without a copy. Only Write, Keep and Free take it.
func (v *Versions) Lend(value []byte) (blob uint64) {
	if len(value) == 0 {
		return 0
	}
	v.lent = value
	return lentBlob
}

// Keep copies the value that is lent to memory of its own, if blob is that.
func (v *Versions) Keep(keyBytes int, blob uint64) (kept uint64, err error) {
	if blob != lentBlob {
		return blob, nil
	}
	r, err := v.Reserve(keyBytes, len(v.lent), false)
	copy(r.Bytes, v.lent)
	return r.Token(), err
}

// Bytes returns the value of a blob: to be written until it is staged or applied, and then read only.
func (v *Versions) Bytes(blob uint64) []byte {
	switch blob {
	case 0:
		return nil
	case lentBlob:
		return v.lent
	}
	return v.store.mem.value(handle(blob))
}

// Lease keeps the bytes of a blob in place until Store.Release, whatever becomes of its version.
func (v *Versions) Lease(blob uint64) Lease {
	if blob == 0 {
		return 0
	}
	v.shard.mu.Lock()
	defer v.shard.mu.Unlock()
	return v.store.leaseLocked(v.shard, handle(blob))
}

// Free gives up a blob that no version has.
func (v *Versions) Free(blob uint64) {
	if blob == 0 || blob == lentBlob {
		return
	}
	v.shard.mu.Lock()
	defer v.shard.mu.Unlock()
	v.ownLocked(handle(blob))
	v.dropLocked(handle(blob))
}

// Settle ends a step: what was dropped in it may be used again, but for leases.
func (v *Versions) Settle() {
	for _, l := range v.dropped {
		v.store.Release(l)
	}
	v.dropped, v.lent = v.dropped[:0], nil
	if pt := &v.store.partitions[v.partition]; len(pt.pins) > 0 {
		v.shard.mu.Lock()
		pt.pins = pt.pins[:0]
		v.shard.mu.Unlock()
	}
}

// Get returns both versions of key.
func (v *Versions) Get(key []byte) (committed Version, staged Staged) {
	id := v.store.identify(v.partition, key)
	v.shard.mu.Lock()
	defer v.shard.mu.Unlock()
	return v.versionLocked(v.committedLocked(&id)), v.stagedLocked(v.findStagedLocked(&id))
}

// Committed returns only the committed version.
func (v *Versions) Committed(key []byte) Version {
	id := v.store.identify(v.partition, key)
	v.shard.mu.Lock()
	rec := v.committedLocked(&id)
	committed := v.versionLocked(rec)
	v.shard.mu.Unlock()
	return committed
}

// committedLocked finds the committed record of a key, for somebody who is told of it.
func (v *Versions) committedLocked(id *identity) handle {
	rec := v.shard.index.find(id)
	if pt := &v.store.partitions[v.partition]; pt.evictable && rec != none {
		pt.pins = append(pt.pins, rec)
	}
	return rec
}

// A Finding says what Read met.
type Finding uint8

const (
	Missing Finding = iota // no committed value
	Found                  // one, which is returned
	Overdue                // one whose deadline has passed
)

// Read makes value, which is empty, the committed one of key with a lease on it, or copied to dst, without a lease, if that is long
// enough; and reports whether another version is staged.
func (v *Versions) Read(value *Value, dst, key []byte, now int64) (found Finding, staged bool) {
	id := v.store.identify(v.partition, key)
	v.shard.mu.Lock()
	staged = v.findStagedLocked(&id) != none
	found = v.readLocked(value, dst, v.shard.index.find(&id), now)
	v.shard.mu.Unlock()
	return found, staged
}

func (v *Versions) readLocked(value *Value, dst []byte, rec handle, now int64) Finding {
	m := v.store.mem
	switch {
	case rec == none || !m.live(rec):
		return Missing
	case now >= m.expiry(rec):
		return Overdue
	}
	v.shard.queues.hit(rec)
	value.Info, value.Place = m.info(rec), uint64(rec)
	stored := m.value(rec)
	if len(stored) <= len(dst) {
		value.Bytes = dst[:copy(dst, stored)]
		return Found
	}
	value.Bytes, value.Lease = stored, v.store.leaseLocked(v.shard, rec)
	return Found
}

func (v *Versions) versionLocked(rec handle) Version {
	m := v.store.mem
	switch {
	case rec == none:
		return Version{}
	case !m.live(rec):
		return Version{Info: Info{Generation: m.generation(rec)}, Deleted: true}
	}
	return Version{Info: m.info(rec), Blob: m.blob(rec)}
}

func (m *memory) blob(rec handle) uint64 {
	if m.valueBytes(rec) == 0 {
		return 0
	}
	return uint64(rec)
}

func (v *Versions) stagedLocked(note handle) (st Staged) {
	if note == none {
		return st
	}
	m := v.store.mem
	value := m.noteValue(note)
	st.Info = Info{Generation: m.generation(note), CRC: m.u32(note, recCRC), Deadline: m.deadline(note)}
	if st.Deleted = value == none; !st.Deleted {
		st.ValueBytes, st.Blob = m.valueBytes(value), m.blob(value)
	}
	for i := range st.Tag {
		st.Tag[i] = m.noteWord(note, noteTag+8*i)
	}
	return st
}

func (m *memory) noteWord(note handle, field int) uint64 { return m.u64(note, m.noteAt(note)+field) }
func (m *memory) setNoteWord(note handle, field int, w uint64) {
	m.setU64(note, m.noteAt(note)+field, w)
}
func (m *memory) noteAt(note handle) int       { return recKey + m.keyBytes(note) }
func (m *memory) noteValue(note handle) handle { return handle(m.noteWord(note, noteValue)) }

// Stage makes st the staged version of key, in place of what was staged. Its blob is one that Reserve gave for a key of that length, or
// the committed version's: then both have it. After an error nothing has changed, and the blob is still the caller's.
func (v *Versions) Stage(key []byte, st Staged) error {
	id := v.store.identify(v.partition, key)
	for tries := 0; ; tries++ {
		err := v.stage(&id, &st)
		if !v.store.again(tries, err, v.store.mem.sizeOf(len(key), noteBytes)) {
			return err
		}
	}
}

func (v *Versions) stage(id *identity, st *Staged) error {
	v.shard.mu.Lock()
	defer v.shard.mu.Unlock()
	rec, old := v.shard.index.find(id), v.shard.staged.find(id)
	value, err := v.valueLocked(id, &st.Version)
	if err != nil {
		return err
	}
	note, err := v.newNoteLocked(id, st, value)
	if err == nil {
		if err = v.rankLocked(v.pairLocked(rec, old), v.pairLocked(rec, note)); err != nil {
			v.store.mem.discard(note)
		}
	}
	if err != nil {
		v.unvalueLocked(&st.Version, value)
		v.shard.index.shrink(1)
		v.shard.staged.shrink(1)
		return fmt.Errorf("storage: %w", err)
	}
	if value != rec && (old == none || value != v.store.mem.noteValue(old)) {
		v.ownLocked(value)
	}
	if old != none {
		v.shard.staged.replace(old, note, id.hash)
		v.dropNoteLocked(old, rec, value)
		return nil
	}
	v.shard.staged.insert(note, id.hash)
	v.shard.index.promised++
	v.store.partitions[v.partition].staged++
	return nil
}

// valueLocked returns the record of a version's value; an empty one, which has no blob, is made.
func (v *Versions) valueLocked(id *identity, version *Version) (handle, error) {
	m := v.store.mem
	switch {
	case version.Deleted:
		return none, nil
	case version.Blob == 0:
		rec, err := m.newRecord(v.shard.lane, len(id.key), 0)
		if err == nil {
			m.setKey(rec, id)
		}
		return rec, err
	}
	rec := handle(version.Blob)
	if m.keyBytes(rec) != len(id.key) {
		return none, fmt.Errorf("storage: %w: a key of %d bytes with a value for one of %d", dramnode.ErrInvalid, len(id.key), m.keyBytes(rec))
	}
	if !m.live(rec) {
		m.setKey(rec, id)
	}
	return rec, nil
}

// unvalueLocked undoes valueLocked.
func (v *Versions) unvalueLocked(version *Version, rec handle) {
	if rec != none && version.Blob == 0 {
		v.store.mem.discard(rec)
	}
}

// ownLocked takes a record over from its reservation; one for an empty value had none.
func (v *Versions) ownLocked(rec handle) {
	if rec != none && v.store.mem.valueBytes(rec) > 0 {
		v.store.mem.countReservation(-v.store.mem.valueBytes(rec))
	}
}

// newNoteLocked returns a note, and makes sure that both indexes can take one more record.
func (v *Versions) newNoteLocked(id *identity, st *Staged, value handle) (handle, error) {
	m := v.store.mem
	if err := v.shard.index.prepare(); err != nil {
		return none, err
	}
	if err := v.shard.staged.prepare(); err != nil {
		return none, err
	}
	note, err := v.newTombLocked(id, st.Generation)
	if err != nil {
		return none, err
	}
	m.setNoteWord(note, noteValue, uint64(value))
	for i, w := range st.Tag {
		m.setNoteWord(note, noteTag+8*i, w)
	}
	if !st.Deleted {
		m.setU64(note, recDeadline, uint64(st.Deadline))
		m.setU32(note, recCRC, st.CRC)
	}
	return note, nil
}

// newTombLocked returns a record for a tombstone.
func (v *Versions) newTombLocked(id *identity, g dramnode.Generation) (handle, error) {
	m := v.store.mem
	tomb, err := m.newRecord(v.shard.lane, len(id.key), noteBytes)
	if err != nil {
		return none, err
	}
	m.setKey(tomb, id)
	m.setU64(tomb, recGeneration, uint64(g))
	return tomb, nil
}

// dropNoteLocked frees a note, and its value unless that is one of two that stay.
func (v *Versions) dropNoteLocked(note, a, b handle) {
	if value := v.store.mem.noteValue(note); value != none && value != a && value != b {
		v.dropLocked(value)
	}
	v.store.mem.discard(note)
}

// unstageLocked takes a note out of its index. Its commit is in the other one by now, or will not be.
func (v *Versions) unstageLocked(note handle, hash uint64) {
	v.shard.staged.remove(note, hash)
	v.unpromiseLocked()
}

// unpromiseLocked lets the index be smaller again.
func (v *Versions) unpromiseLocked() {
	v.shard.index.promised--
	v.shard.index.shrink(2)
	v.store.partitions[v.partition].staged--
}

// dropLocked gives up a value's record, whose bytes stay until Settle.
func (v *Versions) dropLocked(rec handle) {
	if l := v.store.leaseLocked(v.shard, rec); l != 0 {
		v.dropped = append(v.dropped, l)
	}
	v.store.dropLocked(rec)
}

// Commit makes the staged version of key the committed one; it needs no memory. A delete leaves a tombstone.
func (v *Versions) Commit(key []byte) {
	id, m := v.store.identify(v.partition, key), v.store.mem
	v.shard.mu.Lock()
	defer v.shard.mu.Unlock()
	rec, note := v.shard.index.find(&id), v.shard.staged.find(&id)
	if note == none {
		panic(fmt.Sprintf("storage: nothing is staged under %q", key))
	}
	switch value := m.noteValue(note); value {
	case none:
		v.mustRankLocked(v.pairLocked(rec, note), pair{})
		v.shard.staged.remove(note, id.hash)
		v.replaceLocked(&id, rec, note, false)
		v.unpromiseLocked()
		return
	case rec:
		v.retouchLocked(&id, rec, note)
	default:
		m.setU64(value, recGeneration, uint64(m.generation(note)))
		m.setU64(value, recDeadline, uint64(m.deadline(note)))
		m.setU32(value, recCRC, m.u32(note, recCRC))
		v.mustRankLocked(v.pairLocked(rec, note), pair{rec: value})
		v.replaceLocked(&id, rec, value, true)
	}
	v.unstageLocked(note, id.hash)
	v.dropNoteLocked(note, m.noteValue(note), none)
}

// retouchLocked commits a note whose value is the committed one: another generation and deadline for the same record.
func (v *Versions) retouchLocked(id *identity, rec, note handle) {
	m, ttl := v.store.mem, &v.shard.ttl
	was, will := m.deadline(rec), m.deadline(note)
	m.kill(rec)
	if was != 0 && was != will {
		ttl.delete(rec)
	}
	m.setU64(rec, recDeadline, uint64(will))
	if will != 0 && was != will {
		v.must(ttl.put(rec)) // in place of the note
	}
	m.setU64(rec, recGeneration, uint64(m.generation(note)))
	v.shard.queues.hit(rec)
	m.revive(rec)
}

// replaceLocked makes fresh, a value or a tombstone, the committed record of its key in the place of old, each of which may be none.
// The index has room for it.
func (v *Versions) replaceLocked(id *identity, old, fresh handle, isValue bool) {
	m, sh, pt := v.store.mem, v.shard, &v.store.partitions[v.partition]
	wasValue := old != none && m.live(old)
	if wasValue {
		m.kill(old)
		pt.count(m, old, -1)
	} else if old != none {
		pt.unbury(m, old)
	}
	switch {
	case wasValue && isValue:
		sh.queues.replace(old, fresh)
	case wasValue:
		sh.queues.leave(old)
	case isValue:
		sh.queues.enter(fresh, id.hash)
	}
	switch {
	case old == none && fresh != none:
		sh.index.insert(fresh, id.hash)
	case fresh != none:
		sh.index.replace(old, fresh, id.hash)
	case old != none:
		sh.index.remove(old, id.hash)
	}
	if isValue {
		m.revive(fresh)
		pt.count(m, fresh, 1)
	} else if fresh != none {
		pt.bury(m, fresh)
	}
	note := v.findStagedLocked(id)
	switch {
	case old == none || wasValue && note != none && m.noteValue(note) == old: // it is the note's now
	case wasValue:
		v.dropLocked(old)
	default:
		m.discard(old)
	}
}

// Apply makes version the committed one of key and leaves what is staged; the zero Version removes the committed one. Its blob is
// the caller's own. After an error nothing has changed.
func (v *Versions) Apply(key []byte, version Version) error {
	id := v.store.identify(v.partition, key)
	for tries := 0; ; tries++ {
		err := v.apply(&id, &version)
		if !v.store.again(tries, err, v.store.mem.sizeOf(len(key), noteBytes)) {
			return err
		}
	}
}

func (v *Versions) apply(id *identity, version *Version) error {
	v.shard.mu.Lock()
	defer v.shard.mu.Unlock()
	return v.applyLocked(id, version, v.shard.index.find(id), v.findStagedLocked(id))
}

func (v *Versions) applyLocked(id *identity, version *Version, old, note handle) error {
	if version.Generation == 0 {
		v.mustRankLocked(v.pairLocked(old, note), pair{note: note})
		v.replaceLocked(id, old, none, false)
		return nil
	}
	if err := v.shard.index.prepare(); err != nil {
		return fmt.Errorf("storage: %w", err)
	}
	if version.Deleted {
		tomb, err := v.newTombLocked(id, version.Generation)
		if err != nil {
			return fmt.Errorf("storage: %w", err)
		}
		v.mustRankLocked(v.pairLocked(old, note), pair{note: note})
		v.replaceLocked(id, old, tomb, false)
		return nil
	}
	rec, err := v.valueLocked(id, version)
	if err != nil {
		return err
	}
	if err := v.publishLocked(id, rec, version, old, note); err != nil {
		v.unvalueLocked(version, rec)
		return fmt.Errorf("storage: %w", err)
	}
	v.ownLocked(rec)
	return nil
}

// Write is Stage and Commit in one, for a key without a staged version; a delete leaves no tombstone. A value that is lent is copied, over the
// committed one if that is as long and not leased. over is the committed version's blob, as Get or Committed has told since the last Settle, or 0:
// then it is looked for. After an error nothing has changed.
func (v *Versions) Write(key []byte, over uint64, version Version) error {
	id := v.store.identify(v.partition, key)
	for tries := 0; ; tries++ {
		err := v.write(&id, handle(over), &version)
		if !v.store.again(tries, err, v.store.mem.sizeOf(len(key), max(noteBytes, len(v.lent)))) {
			return err
		}
	}
}

func (v *Versions) write(id *identity, old handle, to *Version) error {
	v.shard.mu.Lock()
	defer v.shard.mu.Unlock()
	if old == none || invariant.Enabled {
		rec := v.shard.index.find(id)
		if old != none && old != rec {
			panic("storage: a key is written over a record that is not its own") // without the key, which would escape
		}
		old = rec
	}
	switch {
	case v.findStagedLocked(id) != none:
		return fmt.Errorf("storage: %w: a write at once under a key with a staged version", dramnode.ErrInvalid)
	case to.Deleted:
		return v.applyLocked(id, &Version{}, old, none)
	case to.Blob == lentBlob:
		return v.writeLentLocked(id, old, to)
	}
	return v.applyLocked(id, to, old, none)
}

func (v *Versions) writeLentLocked(id *identity, old handle, to *Version) error {
	if err := v.store.checkValue(len(v.lent)); err != nil {
		return err
	}
	if !v.inPlaceLocked(old) {
		if err := v.spare(len(v.lent)); err != nil {
			return err
		}
	}
	if err := v.storeLocked(id, old, to); err != nil {
		return fmt.Errorf("storage: %w", err)
	}
	return nil
}

// findStagedLocked returns the note of a key, or none.
func (v *Versions) findStagedLocked(id *identity) handle {
	if v.store.partitions[v.partition].staged == 0 {
		return none
	}
	return v.shard.staged.find(id)
}

// Forget drops the staged version of key, if there is one.
func (v *Versions) Forget(key []byte) {
	id := v.store.identify(v.partition, key)
	v.shard.mu.Lock()
	defer v.shard.mu.Unlock()
	rec, note := v.shard.index.find(&id), v.shard.staged.find(&id)
	if note == none {
		return
	}
	v.mustRankLocked(v.pairLocked(rec, note), v.pairLocked(rec, none))
	v.unstageLocked(note, id.hash)
	v.dropNoteLocked(note, rec, none)
}

// A pair is what the order and the deadlines know of a key: the record of its value, and its note.
type pair struct{ rec, note handle }

// pairLocked returns the pair of a committed record, which may be a tombstone, and a note.
func (v *Versions) pairLocked(rec, note handle) pair {
	if rec != none && !v.store.mem.live(rec) {
		rec = none
	}
	return pair{rec, note}
}

// key is the one that stands in the order.
func (p pair) key() handle {
	if p.rec != none {
		return p.rec
	}
	return p.note
}

// at returns what stands for a deadline, none if nothing does.
func (p pair) at(m *memory, deadline int64) handle {
	switch {
	case deadline == 0:
		return none
	case p.rec != none && m.deadline(p.rec) == deadline:
		return p.rec
	case p.note != none && m.deadline(p.note) == deadline:
		return p.note
	}
	return none
}

func (p pair) deadlines(m *memory) (all [2]int64) {
	if p.rec != none {
		all[0] = m.deadline(p.rec)
	}
	if p.note != none {
		all[1] = m.deadline(p.note)
	}
	return all
}

// rankLocked makes to stand where from stood in the order and among the deadlines. Only a key or a deadline that
// from does not have needs memory; after an error nothing has changed. to has at most one new deadline.
func (v *Versions) rankLocked(from, to pair) error {
	m, sh := v.store.mem, v.shard
	added := none
	for _, d := range to.deadlines(m) {
		if rec := to.at(m, d); rec != none && from.at(m, d) == none {
			if err := sh.ttl.put(rec); err != nil {
				return err
			}
			added = rec
		}
	}
	switch a, b := from.key(), to.key(); {
	case b == none && a != none:
		sh.order.remove(a)
	case a != b:
		if err := sh.order.put(b); err != nil {
			if added != none {
				sh.ttl.delete(added)
			}
			return err
		}
	}
	for _, d := range from.deadlines(m) {
		was, is := from.at(m, d), to.at(m, d)
		switch {
		case was == none || was == is:
		case is == none:
			sh.ttl.delete(was)
		default:
			v.must(sh.ttl.put(is)) // in place of was
		}
	}
	return nil
}

func (v *Versions) mustRankLocked(from, to pair) { v.must(v.rankLocked(from, to)) }

// must holds that what replaces needs no memory.
func (v *Versions) must(err error) {
	if err != nil {
		panic("storage: a version does not fit where its note was: " + err.Error())
	}
}

// DropTombstones forgets the tombstones below g.
func (v *Versions) DropTombstones(g dramnode.Generation) {
	// Only this partition's writes bury and unbury, so that there are none can be seen without the lock.
	for more := v.store.partitions[v.partition].oldest != none; more; {
		more = v.dropSomeTombstones(g)
	}
}

func (v *Versions) dropSomeTombstones(g dramnode.Generation) (more bool) {
	m, sh, pt := v.store.mem, v.shard, &v.store.partitions[v.partition]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for range stepRecords {
		tomb := pt.oldest
		if tomb == none || m.generation(tomb) >= g {
			return false
		}
		pt.unbury(m, tomb)
		sh.index.remove(tomb, sh.index.hashOf(tomb))
		m.discard(tomb)
	}
	return true
}

// Scan calls visit for keys with a committed version, about limit of them, and returns where to go on; 0 at the end. The order
// is that of hashes, bits reversed: a bucket that is split, or joined, stays one stretch of it, so whatever
// happens to the index between two calls, a key that is there all the time is visited. visit must not use the store.
func (v *Versions) Scan(from uint64, limit int, visit func(key []byte, committed Version, staged Staged)) (next uint64) {
	m, sh := v.store.mem, v.shard
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.index.buckets == 0 {
		return 0
	}
	for looked := 0; limit > 0 && looked < lookMax; looked++ {
		b := sh.index.bucketOf(bits.Reverse64(from))
		for rec := sh.index.head(b); rec != none; rec = m.link(rec, recChain) {
			looked++
			if m.partition(rec) != v.partition {
				continue
			}
			limit--
			key := m.key(rec)
			id := v.store.identify(v.partition, key)
			visit(key, v.versionLocked(rec), v.stagedLocked(sh.staged.find(&id)))
		}
		if from = sh.index.behind(b); from == 0 {
			return 0
		}
	}
	return from
}

// behind returns the first reversed hash behind those of a bucket, 0 if it is the last.
func (x *index) behind(bucket int) uint64 {
	n := bits.Len(uint(x.buckets - 1))
	if n > 0 && bucket < 1<<(n-1) && bucket+1<<(n-1) >= x.buckets {
		n-- // not split yet in this round
	}
	return bits.Reverse64(uint64(bucket)) + 1<<(64-n)
}

// List calls visit for keys with a committed value from start on and before end (nil: no bound), in order, at most limit of them,
// and returns the key to go on with, nil at the end. visit must not use the store.
func (v *Versions) List(start, end []byte, limit int, visit func(key []byte, committed Version)) (next []byte) {
	m, sh, o := v.store.mem, v.shard, v.shard.order
	sh.mu.Lock()
	defer sh.mu.Unlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.wanted, o.wantedPartition = start, 0
	looked := 0
	o.tree.ascend(probe, func(rec handle) bool {
		key := m.key(rec)
		if end != nil && bytes.Compare(key, end) >= 0 {
			return false
		}
		mine := m.partition(rec) == v.partition && m.live(rec)
		if looked++; looked > lookMax || mine && limit == 0 {
			next = append([]byte{}, key...)
			return false
		}
		if mine {
			limit--
			visit(key, v.versionLocked(rec))
		}
		return true
	})
	o.wanted = nil
	return next
}

// EachStaged calls visit for each key with a staged version, in order of keys. visit may change that key.
func (v *Versions) EachStaged(visit func(key []byte, committed Version, staged Staged)) {
	for _, key := range v.stagedKeys() {
		if committed, staged := v.Get(key); staged.Generation != 0 {
			visit(key, committed, staged)
		}
	}
}

func (v *Versions) stagedKeys() (keys [][]byte) {
	m, sh := v.store.mem, v.shard
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if v.store.partitions[v.partition].staged == 0 {
		return nil
	}
	for b := range sh.staged.buckets {
		for note := sh.staged.head(b); note != none; note = m.link(note, recChain) {
			if m.partition(note) == v.partition {
				keys = append(keys, bytes.Clone(m.key(note)))
			}
		}
	}
	slices.SortFunc(keys, bytes.Compare)
	return keys
}

// Expired calls visit for keys whose committed value's deadline is at most now, the longest overdue first, until it
// returns false. visit must not use the store.
func (v *Versions) Expired(now int64, visit func(key []byte) bool) {
	m, sh := v.store.mem, v.shard
	sh.mu.Lock()
	defer sh.mu.Unlock()
	looked := 0
	sh.ttl.all(func(rec handle) bool {
		if looked++; looked > lookMax || m.deadline(rec) > now {
			return false
		}
		return m.partition(rec) != v.partition || !m.live(rec) || visit(m.key(rec))
	})
}

// Clear forgets everything, at once but for leases.
func (v *Versions) Clear() {
	for _, key := range v.stagedKeys() {
		v.Forget(key)
	}
	v.store.purge(v.partition)
}

// Stats counts what there is.
func (v *Versions) Stats() (s VersionsStats) {
	v.shard.mu.Lock()
	defer v.shard.mu.Unlock()
	pt := &v.store.partitions[v.partition]
	return VersionsStats{pt.entries, pt.tombstones, pt.staged}
}

// VersionsStats counts versions by their kind.
type VersionsStats struct{ Entries, Tombstones, Staged int }

// bury notes a tombstone, behind those of lower generations: most come in that order.
func (p *partition) bury(m *memory, tomb handle) {
	p.tombstones++
	before, behind := p.newest, none
	for before != none && m.generation(before) > m.generation(tomb) {
		before, behind = handle(m.noteWord(before, tombPrev)), before
	}
	p.join(m, before, tomb)
	p.join(m, tomb, behind)
}

// unbury takes it out again.
func (p *partition) unbury(m *memory, tomb handle) {
	p.tombstones--
	p.join(m, handle(m.noteWord(tomb, tombPrev)), handle(m.noteWord(tomb, tombNext)))
}

// join makes two tombstones neighbours; none is the end of the list.
func (p *partition) join(m *memory, a, b handle) {
	if a != none {
		m.setNoteWord(a, tombNext, uint64(b))
	} else {
		p.oldest = b
	}
	if b != none {
		m.setNoteWord(b, tombPrev, uint64(a))
	} else {
		p.newest = a
	}
}
