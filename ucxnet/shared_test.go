package ucxnet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/wire"
)

// writeRecord lays a record out at a place of a region, as package storage does.
func writeRecord(r transport.SharedRegion, p transport.Place, key, value string, deadline int64) {
	b, state := r.Bytes()[p.At:], &r.Words()[(p.At+wire.RecordState)/8]
	state.Store(state.Load()&^wire.RecordLive + 1<<32)
	binary.LittleEndian.PutUint64(b[wire.RecordGeneration:], p.Generation)
	binary.LittleEndian.PutUint64(b[wire.RecordDeadline:], uint64(deadline))
	binary.LittleEndian.PutUint32(b[wire.RecordValueBytes:], uint32(len(value)))
	binary.LittleEndian.PutUint32(b[wire.RecordCRC:], wire.Checksum([]byte(value)))
	binary.LittleEndian.PutUint16(b[wire.RecordKeyBytes:], uint16(len(key)))
	binary.LittleEndian.PutUint16(b[wire.RecordPartition:], p.Partition)
	copy(b[wire.RecordKey:], key)
	copy(b[wire.RecordKey+len(key):], value)
	state.Store(state.Load() + 1<<32 | wire.RecordLive)
}

var testStart = time.Now()

// testClock is the clock of the records' deadlines.
func testClock() int64 { return int64(time.Since(testStart)) + 1 }

func share(t testing.TB, n *Network, bytes int) (transport.SharedRegion, transport.SharedView) {
	t.Helper()
	r, err := n.Share(transport.ShareConfig{Bytes: bytes, Partitions: 8, Clock: testClock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	v, err := n.OpenShare(r.Ticket())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	return r, v
}

func idle(t testing.TB) *Network {
	t.Helper()
	n, err := New(testConfig(transport.RoleClient))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

var testPlace = transport.Place{At: 4096, Generation: 9<<32 | 7, Epoch: 9, Partition: 3}

// Each way in which a record stops to be readable is seen, and is undone where it can be.
func TestSharedRead(t *testing.T) {
	r, v := share(t, idle(t), 1<<20)
	const key, value = "some/key", "its value"
	writeRecord(r, testPlace, key, value, 0)
	dst := make([]byte, 64)
	expect := func(what string, p transport.Place, key string, dst []byte, want transport.SharedOutcome) {
		t.Helper()
		got, outcome := v.Read(p, []byte(key), dst)
		if outcome != want {
			t.Errorf("%s: %v, want %v", what, outcome, want)
		}
		if want == transport.SharedRead && (string(dst[:got.Bytes]) != value || got.CRC != wire.Checksum([]byte(value))) {
			t.Errorf("%s: read %q with checksum %#x", what, dst[:got.Bytes], got.CRC)
		}
	}
	expect("before the partition is served", testPlace, key, dst, transport.SharedNotServing)
	r.SetPartition(testPlace.Partition, testPlace.Epoch, true)
	expect("before the first renewal", testPlace, key, dst, transport.SharedNotValid)
	r.Renew(r.Now() + int64(time.Minute))
	expect("a current record", testPlace, key, dst, transport.SharedRead)
	expect("into just enough", testPlace, key, dst[:len(value)], transport.SharedRead)
	if got, outcome := v.Read(testPlace, []byte(key), dst[:len(value)-1]); outcome != transport.SharedTooLong || got.Bytes != len(value) {
		t.Errorf("into too little: %v, %d bytes", outcome, got.Bytes)
	}

	expect("another key of that length", testPlace, "some/kez", dst, transport.SharedStale)
	expect("a shorter key", testPlace, "some/ke", dst, transport.SharedStale)
	other := testPlace
	other.Generation++
	expect("another generation", other, key, dst, transport.SharedStale)
	other = testPlace
	other.Epoch++
	expect("another epoch", other, key, dst, transport.SharedNotServing)
	other = testPlace
	other.Partition = 4
	expect("another partition", other, key, dst, transport.SharedStale)
	other.Partition = 8
	expect("a partition that there is not", other, key, dst, transport.SharedStale)
	for _, at := range []uint64{4097, 1<<20 - 8, 1 << 20, 1 << 63, 1<<64 - 8} {
		other = testPlace
		other.At = at
		expect(fmt.Sprint("a place at ", at), other, key, dst, transport.SharedStale)
	}

	state := &r.Words()[(testPlace.At+wire.RecordState)/8]
	state.Store(state.Load() &^ wire.RecordLive)
	expect("an overwritten record", testPlace, key, dst, transport.SharedStale)
	state.Add(wire.RecordLive)
	state.Add(1 << 5)
	expect("a record with a lease", testPlace, key, dst, transport.SharedRead)
	binary.LittleEndian.PutUint32(r.Bytes()[testPlace.At+wire.RecordValueBytes:], 1<<31)
	expect("a length beyond the region", testPlace, key, dst, transport.SharedStale)
	writeRecord(r, testPlace, key, value, 0)

	r.SetPartition(testPlace.Partition, testPlace.Epoch, false)
	expect("a partition that is handed over", testPlace, key, dst, transport.SharedNotServing)
	r.SetPartition(testPlace.Partition, testPlace.Epoch, true)
	expect("a partition that stayed after all", testPlace, key, dst, transport.SharedRead)
	r.Renew(r.Now() - int64(time.Second))
	expect("an owner that stands still", testPlace, key, dst, transport.SharedNotValid)
	r.Renew(r.Now() + int64(time.Minute))

	writeRecord(r, testPlace, key, value, testClock()+int64(time.Hour))
	if got, outcome := v.Read(testPlace, []byte(key), dst); outcome != transport.SharedRead || got.Life <= 59*time.Minute || got.Life > time.Hour {
		t.Errorf("a record with a time to live: %v, %v left", outcome, got.Life)
	}
	writeRecord(r, testPlace, key, value, testClock()-1)
	expect("an expired record", testPlace, key, dst, transport.SharedExpired)
	writeRecord(r, testPlace, key, value, 0)

	expect("again a current record", testPlace, key, dst, transport.SharedRead)
	if !v.Alive() {
		t.Error("the owner is not alive")
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	expect("a closed region", testPlace, key, dst, transport.SharedOwnerGone)
	if v.Alive() {
		t.Error("the owner is alive after Close")
	}
	v.Close()
	expect("a closed view", testPlace, key, dst, transport.SharedOwnerGone)
	runtime.GC() // the mapping goes with the view, not before
	expect("a closed view later", testPlace, key, dst, transport.SharedOwnerGone)
}

func TestSharedReadOfNothing(t *testing.T) {
	r, v := share(t, idle(t), 1<<20)
	writeRecord(r, testPlace, "k", "", 0)
	r.SetPartition(testPlace.Partition, testPlace.Epoch, true)
	r.Renew(r.Now() + int64(time.Minute))
	if got, outcome := v.Read(testPlace, []byte("k"), nil); outcome != transport.SharedRead || got.Bytes != 0 {
		t.Errorf("%v, %d bytes", outcome, got.Bytes)
	}
}

func TestShareRefuses(t *testing.T) {
	n := idle(t)
	for _, c := range []transport.ShareConfig{{Bytes: 0, Partitions: 1}, {Bytes: 1, Partitions: 0}, {Bytes: 1, Partitions: 1<<16 + 1}} {
		if _, err := n.Share(c); !errors.Is(err, dramnode.ErrInvalid) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	r, _ := share(t, n, 1<<20)
	good, err := parseTicket(r.Ticket())
	if err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*ticket){
		"another host":   func(t *ticket) { t.host++ },
		"another id":     func(t *ticket) { t.id[3]++ },
		"another length": func(t *ticket) { t.bytes++ },
		"no such file":   func(t *ticket) { t.fd = 1 << 20 },
		"another file":   func(t *ticket) { t.fd = 0 },
		"no process":     func(t *ticket) { t.pid = 1 << 30 },
	} {
		bad := good
		change(&bad)
		if v, err := n.OpenShare(bad.append(nil)); !errors.Is(err, dramnode.ErrUnavailable) {
			t.Errorf("%s: %v, %v", what, v, err)
		}
	}
	for _, b := range [][]byte{nil, good.append(nil)[1:], make([]byte, ticketBytes)} {
		if v, err := n.OpenShare(b); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("a ticket of %d bytes: %v, %v", len(b), v, err)
		}
	}
}

// Nobody but the owner writes, and the file stays as long as it is.
func TestSharedFileIsSealed(t *testing.T) {
	r, _ := share(t, idle(t), 1<<20)
	tk, err := parseTicket(r.Ticket())
	if err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprintf("/proc/%d/fd/%d", tk.pid, tk.fd)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o400 {
		t.Errorf("%v, %v", info, err)
	}
	f := r.(*sharedRegion).file // itself: another os.File of its number would close that number when collected, whoever has it then
	if _, err := syscall.Mmap(int(f.Fd()), 0, 4096, syscall.PROT_WRITE, syscall.MAP_SHARED); err == nil {
		t.Error("a second mapping for writing")
	}
	for _, bytes := range []int64{4096, 1 << 30} {
		if err := syscall.Ftruncate(int(f.Fd()), bytes); err == nil {
			t.Errorf("the file now has %d bytes", bytes)
		}
	}
}

// A process that is killed is dead to its readers by the time that its parent knows.
func TestSharedOwnerKilled(t *testing.T) {
	for range 20 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "UCXNET_TEST_SHARER=1")
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ticket := make([]byte, ticketBytes)
		if _, err := io.ReadFull(out, ticket); err != nil {
			t.Fatal(err)
		}
		v, err := idle(t).OpenShare(ticket)
		if err != nil {
			t.Fatal(err)
		}
		dst := make([]byte, 64)
		if got, outcome := v.Read(testPlace, []byte("k"), dst); outcome != transport.SharedRead || !bytes.Equal(dst[:got.Bytes], []byte("v")) {
			t.Fatalf("before: %v", outcome)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		var status *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &status) {
			t.Fatal(err)
		}
		if _, outcome := v.Read(testPlace, []byte("k"), dst); outcome != transport.SharedOwnerGone {
			t.Fatalf("after: %v", outcome)
		}
		in.Close()
		v.Close()
	}
}

// childSharer shares a region with one record until it is killed.
func childSharer() {
	n, err := New(testConfig(transport.RoleClient))
	if err != nil {
		panic(err)
	}
	r, err := n.Share(transport.ShareConfig{Bytes: 1 << 20, Partitions: 8, Clock: testClock})
	if err != nil {
		panic(err)
	}
	writeRecord(r, testPlace, "k", "v", 0)
	r.SetPartition(testPlace.Partition, testPlace.Epoch, true)
	r.Renew(r.Now() + int64(time.Hour))
	os.Stdout.Write(r.Ticket())
	io.Copy(io.Discard, os.Stdin)
}

// A shared region is memory that the network moves values from and to, like any other.
func TestSharedRegionIsARegion(t *testing.T) {
	n := idle(t)
	r, _ := share(t, n, 1<<20)
	if n.regionOf(r.Bytes()[100:5000]) == nil {
		t.Error("the network does not know it")
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if err := r.Close(); err != nil {
		t.Error("second Close:", err)
	}
}

func TestSharedReadAllocatesNothing(t *testing.T) {
	r, v := share(t, idle(t), 1<<20)
	writeRecord(r, testPlace, "k", "v", 0)
	r.SetPartition(testPlace.Partition, testPlace.Epoch, true)
	r.Renew(r.Now() + int64(time.Hour))
	key, dst := []byte("k"), make([]byte, 64)
	if n := testing.AllocsPerRun(100, func() { v.Read(testPlace, key, dst) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkSharedRead(b *testing.B) {
	for _, size := range []int{64, 4096, 64 << 10, 1 << 20, 16 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			r, v := share(b, idle(b), 64<<20)
			writeRecord(r, testPlace, "some/key/of/16/b", strings.Repeat("v", size), 0)
			r.SetPartition(testPlace.Partition, testPlace.Epoch, true)
			r.Renew(r.Now() + int64(time.Hour))
			key, dst := []byte("some/key/of/16/b"), make([]byte, size)
			b.SetBytes(int64(size))
			for b.Loop() {
				if _, outcome := v.Read(testPlace, key, dst); outcome != transport.SharedRead {
					b.Fatal(outcome)
				}
			}
		})
	}
}
