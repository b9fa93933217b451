package storage

import (
	"encoding/binary"
	"runtime"
	"runtime/debug"
	"slices"
	"syscall"
	"testing"
	"time"
)

// BenchmarkCollector reports the collector's work with an empty store and with ten million entries: its
// pauses, the time of a whole collection, and the heap that it walks. The arena lies outside the heap, as in a node.
func BenchmarkCollector(b *testing.B) {
	for _, bb := range []struct {
		name    string
		entries int
	}{{"empty", 0}, {"10M", 10_000_000}} {
		b.Run(bb.name, func(b *testing.B) {
			arena, err := syscall.Mmap(-1, 0, 2<<30, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON|syscall.MAP_NORESERVE)
			if err != nil {
				b.Fatal(err)
			}
			defer syscall.Munmap(arena)
			s := openAll(b, Config{Arena: arena, Partitions: 1031})
			key, value := make([]byte, 16), make([]byte, 64)
			for i := range uint64(bb.entries) {
				binary.BigEndian.PutUint64(key, i*0x9E3779B97F4A7C15)
				mustSucceed(b, s.put(uint16(i%1031), key, value, Info{}))
			}
			var before, after debug.GCStats
			debug.ReadGCStats(&before)
			var total time.Duration
			for b.Loop() {
				start := time.Now()
				runtime.GC()
				total += time.Since(start)
			}
			debug.ReadGCStats(&after)
			pauses := after.Pause[:min(len(after.Pause), int(after.NumGC-before.NumGC))]
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			b.ReportMetric(float64(slices.Max(pauses).Microseconds()), "µs/longest-pause")
			b.ReportMetric(float64(total.Microseconds())/float64(b.N), "µs/collection")
			b.ReportMetric(float64(m.HeapAlloc)/(1<<20), "heap-MiB")
			b.ReportMetric(0, "ns/op")
			runtime.KeepAlive(s)
		})
	}
}
