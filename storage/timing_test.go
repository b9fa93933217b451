package storage

import (
	"encoding/binary"
	"testing"
)

func TestAllocations(t *testing.T) {
	s := open(t, 1<<20)
	key, value, dst := []byte("key"), make([]byte, 64), make([]byte, 64)
	large := make([]byte, 100<<10)
	tests := map[string]func(){
		"overwrite":       func() { mustSucceed(t, s.put(0, key, value, Info{})) },
		"overwrite large": func() { mustSucceed(t, s.put(0, []byte("large"), large, Info{})) },
		"another length": func() {
			mustSucceed(t, s.put(0, key, value[:63], Info{}))
			mustSucceed(t, s.put(0, key, value, Info{}))
		},
		"create and delete": func() {
			mustSucceed(t, s.put(0, []byte("new"), value, Info{}))
			mustSucceed(t, s.del(0, []byte("new")))
		},
		"touch":    func() { mustSucceed(t, s.touch(0, key, 0)) },
		"get into": func() { s.getInto(dst, 0, key, 0) },
		"get and release": func() {
			v, ok := s.get(0, key, 0)
			if !ok {
				t.Error("missing")
			}
			s.Release(v.Lease)
		},
	}
	mustSucceed(t, s.put(0, key, value, Info{}))
	for name, f := range tests {
		f()
		if n := testing.AllocsPerRun(1000, f); n != 0 {
			t.Errorf("%s allocates %v times, want 0", name, n)
		}
	}
}

const benchKeys = 100_000

func benchStore(b *testing.B) *opened {
	s := openAll(b, Config{Arena: make([]byte, 64<<20), Partitions: 1031})
	value := make([]byte, 64)
	for i := range uint64(benchKeys) {
		mustSucceed(b, s.put(uint16(i%1031), binary.BigEndian.AppendUint64(nil, i), value, Info{}))
	}
	b.ReportAllocs()
	b.ResetTimer()
	return s
}

func eachKey(pb *testing.PB, f func(p uint16, key []byte)) {
	var key [8]byte
	for i := uint64(1); pb.Next(); i = i*6364136223846793005 + 1442695040888963407 {
		k := (i >> 33) % benchKeys
		binary.BigEndian.PutUint64(key[:], k)
		f(uint16(k%1031), key[:])
	}
}

func BenchmarkGet64(b *testing.B) {
	s := benchStore(b)
	b.RunParallel(func(pb *testing.PB) {
		eachKey(pb, func(p uint16, key []byte) {
			v, ok := s.get(p, key, 0)
			if !ok {
				b.Error("missing")
			}
			s.Release(v.Lease)
		})
	})
}

func BenchmarkGetInto64(b *testing.B) {
	s := benchStore(b)
	b.RunParallel(func(pb *testing.PB) {
		dst := make([]byte, 64)
		eachKey(pb, func(p uint16, key []byte) { s.getInto(dst, p, key, 0) })
	})
}

func BenchmarkOverwrite64(b *testing.B) {
	s := benchStore(b)
	b.RunParallel(func(pb *testing.PB) {
		value := make([]byte, 64)
		eachKey(pb, func(p uint16, key []byte) { mustSucceed(b, s.put(p, key, value, Info{})) })
	})
}

func BenchmarkCreateDelete64(b *testing.B) {
	s := benchStore(b)
	b.RunParallel(func(pb *testing.PB) {
		value := make([]byte, 64)
		eachKey(pb, func(p uint16, key []byte) {
			key[0] = 1
			mustSucceed(b, s.put(p, key, value, Info{}))
			mustSucceed(b, s.del(p, key))
			key[0] = 0
		})
	})
}

func BenchmarkList100(b *testing.B) {
	s := benchStore(b)
	b.RunParallel(func(pb *testing.PB) {
		eachKey(pb, func(p uint16, key []byte) {
			s.List(Listing{Start: key, Limit: 100}, func(Entry) bool { return true })
		})
	})
}
