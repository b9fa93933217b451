package ucxnet

/*
#cgo nocallback dn_view_read
#cgo noescape dn_view_read
#cgo nocallback dn_shared_set
#cgo nocallback dn_shared_renew
#cgo nocallback dn_boot_now
#include "shared.h"
*/
import "C"

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/wire"
)

// The two descriptions of a record agree, or this does not compile.
var (
	_ = [1]struct{}{}[C.DN_REC_STATE-wire.RecordState]
	_ = [1]struct{}{}[C.DN_REC_GENERATION-wire.RecordGeneration]
	_ = [1]struct{}{}[C.DN_REC_DEADLINE-wire.RecordDeadline]
	_ = [1]struct{}{}[C.DN_REC_VALUE_BYTES-wire.RecordValueBytes]
	_ = [1]struct{}{}[C.DN_REC_CRC-wire.RecordCRC]
	_ = [1]struct{}{}[C.DN_REC_KEY_BYTES-wire.RecordKeyBytes]
	_ = [1]struct{}{}[C.DN_REC_PARTITION-wire.RecordPartition]
	_ = [1]struct{}{}[C.DN_REC_KEY-wire.RecordKey]
	_ = [1]struct{}{}[C.DN_REC_LIVE^wire.RecordLive]
	_ = [1]struct{}{}[C.DN_REC_VERSION^wire.RecordVersion]
)

// sharedAlign is what the header of a shared region is rounded up to, so that the arena may have huge pages.
// What nobody writes of it takes no memory.
const sharedAlign = 2 << 20

// A sharedRegion is a Region in an anonymous file. The file has no name: it goes with its last mapping, however the
// owner ends, and no tmpfs limits it. A process of the same user in the same pid namespace opens it through /proc; the
// seals see to it that nobody maps it for writing any more and that it never gets shorter under a reader.
type sharedRegion struct {
	*Region
	file   *os.File
	whole  []byte // the header, then Region.mem
	ticket []byte

	mu     sync.Mutex
	keeper *C.dn_keeper // nil once closed
}

var _ transport.Sharer = (*Network)(nil)

// Share implements transport.Sharer.
func (n *Network) Share(c transport.ShareConfig) (transport.SharedRegion, error) {
	if c.Bytes <= 0 || c.Partitions < 1 || c.Partitions > math.MaxUint16+1 {
		return nil, fmt.Errorf("%w: a shared region of %d bytes for %d partitions", dramnode.ErrInvalid, c.Bytes, c.Partitions)
	}
	headerBytes := (int(unsafe.Sizeof(C.dn_shared{})) + 8*c.Partitions + sharedAlign - 1) &^ (sharedAlign - 1)
	s := &sharedRegion{}
	id := randomNonce()
	if err := s.create(headerBytes + c.Bytes); err != nil {
		return nil, fmt.Errorf("%w: shared memory of %d bytes: %w", dramnode.ErrNoMemory, c.Bytes, err)
	}
	boot := C.dn_boot_now() // before Clock, so that the base is not too late
	C.dn_shared_format(unsafe.Pointer(&s.whole[0]), (*C.uint8_t)(&id[0]), C.uint64_t(headerBytes), C.uint64_t(c.Bytes), C.uint32_t(c.Partitions), boot-C.int64_t(c.Clock()))
	s.ticket = ticket{host: readerHost(), pid: uint32(os.Getpid()), fd: uint32(s.file.Fd()), id: id, bytes: uint64(len(s.whole))}.append(nil)
	var errno C.int
	if s.keeper = C.dn_keep(unsafe.Pointer(&s.whole[0]), &errno); s.keeper == nil {
		return nil, errors.Join(fmt.Errorf("%w: the thread that vouches for shared memory: %w", dramnode.ErrNoMemory, syscall.Errno(errno)), s.free())
	}
	r, err := n.regionIn(s.whole[headerBytes:])
	if err != nil {
		return nil, errors.Join(err, s.free())
	}
	s.Region = r
	return s, nil
}

// create makes and maps the file.
func (s *sharedRegion) create(bytes int) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &limit); err == nil && limit.Cur < uint64(bytes) {
		return fmt.Errorf("files of this process may have %d bytes (ulimit -f)", limit.Cur)
	}
	fd, err := unix.MemfdCreate("dramnode", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return fmt.Errorf("memfd_create: %w", err)
	}
	s.file = os.NewFile(uintptr(fd), "memfd:dramnode")
	err = s.file.Chmod(0o400)
	if err == nil {
		err = s.file.Truncate(int64(bytes))
	}
	if err == nil && strictOvercommit() {
		// There the first touch of a page may fail, and would kill us by SIGBUS: take them all now.
		err = unix.Fallocate(fd, 0, 0, int64(bytes))
	}
	if err == nil {
		s.whole, err = syscall.Mmap(fd, 0, bytes, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED|syscall.MAP_NORESERVE)
	}
	if err == nil {
		_ = syscall.Madvise(s.whole, syscall.MADV_HUGEPAGE) // advice: a kernel without it is as good
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_FUTURE_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	}
	if err != nil {
		return errors.Join(err, s.free())
	}
	return nil
}

func strictOvercommit() bool {
	mode, err := os.ReadFile("/proc/sys/vm/overcommit_memory")
	return err == nil && strings.TrimSpace(string(mode)) == "2"
}

// Words implements transport.SharedRegion.
func (s *sharedRegion) Words() []atomic.Uint64 {
	return unsafe.Slice((*atomic.Uint64)(unsafe.Pointer(&s.mem[0])), len(s.mem)/8)
}

// Ticket implements transport.SharedRegion.
func (s *sharedRegion) Ticket() []byte { return s.ticket }

// servingWord is a partition's word in the header while its records may be read.
func servingWord(epoch uint32) C.uint64_t { return C.uint64_t(epoch)<<32 | 1 }

// SetPartition implements transport.SharedRegion.
func (s *sharedRegion) SetPartition(partition uint16, epoch uint32, serving bool) {
	word := C.uint64_t(0)
	if serving {
		word = servingWord(epoch)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keeper != nil {
		C.dn_shared_set(unsafe.Pointer(&s.whole[0]), C.uint32_t(partition), word)
	}
}

// Renew implements transport.SharedRegion.
func (s *sharedRegion) Renew(until int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keeper != nil {
		C.dn_shared_renew(unsafe.Pointer(&s.whole[0]), C.int64_t(until))
	}
}

// Now implements transport.SharedRegion.
func (s *sharedRegion) Now() int64 { return int64(BootTime()) }

// BootTime reads CLOCK_BOOTTIME, which goes on while the machine is suspended, in a fifth of the time of the system call that
// Go has for it.
func BootTime() time.Duration { return time.Duration(C.dn_boot_now()) }

// Close implements transport.Region. Readers find the owner gone before any memory is.
func (s *sharedRegion) Close() error {
	s.Region.n.unregister(s.Region)
	return s.free()
}

func (s *sharedRegion) free() (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keeper != nil {
		C.dn_unkeep(s.keeper)
		s.keeper = nil
	}
	if s.whole != nil {
		err = syscall.Munmap(s.whole)
		s.whole = nil
	}
	if s.file != nil {
		err = errors.Join(err, s.file.Close())
		s.file = nil
	}
	return err
}

// A ticket says where a process keeps a shared region.
//
//	0 host u64 | 8 pid u32 | 12 fd u32 | 16 id | 32 bytes of the file u64
type ticket struct {
	host    uint64
	pid, fd uint32
	id      [nonceBytes]byte
	bytes   uint64
}

const ticketBytes = 40

func (t ticket) append(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, t.host)
	dst = binary.LittleEndian.AppendUint32(dst, t.pid)
	dst = binary.LittleEndian.AppendUint32(dst, t.fd)
	dst = append(dst, t.id[:]...)
	return binary.LittleEndian.AppendUint64(dst, t.bytes)
}

func parseTicket(b []byte) (t ticket, err error) {
	if len(b) != ticketBytes {
		return t, fmt.Errorf("%w: a ticket of %d bytes, want %d", wire.ErrMalformed, len(b), ticketBytes)
	}
	t = ticket{
		host:  binary.LittleEndian.Uint64(b),
		pid:   binary.LittleEndian.Uint32(b[8:]),
		fd:    binary.LittleEndian.Uint32(b[12:]),
		bytes: binary.LittleEndian.Uint64(b[32:]),
	}
	copy(t.id[:], b[16:])
	if t.bytes < uint64(unsafe.Sizeof(C.dn_shared{})) || t.bytes > math.MaxInt64 {
		return t, fmt.Errorf("%w: a ticket for %d bytes", wire.ErrMalformed, t.bytes)
	}
	return t, nil
}

// readerHost is equal for two processes that may read each other's shared regions: the same boot of the same kernel,
// the same pid namespace (files are opened through /proc) and the same clocks.
func readerHost() uint64 { return hostOf("/proc/self/ns/pid", "/proc/self/ns/time") }

// A sharedView is a region of another process. It must not be used by who may still read after it has gone out of
// reach: then the mapping goes.
type sharedView struct {
	c      C.dn_view
	mem    []byte
	closed atomic.Bool
}

// OpenShare implements transport.Sharer.
func (n *Network) OpenShare(b []byte) (transport.SharedView, error) {
	t, err := parseTicket(b)
	if err != nil {
		return nil, err
	}
	if host := readerHost(); host == 0 || t.host != host {
		return nil, fmt.Errorf("%w: the memory is another host's", dramnode.ErrUnavailable)
	}
	path := fmt.Sprintf("/proc/%d/fd/%d", t.pid, t.fd)
	file, err := os.Open(path)
	switch {
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("%w: the owner's memory is another user's: %w", dramnode.ErrNotAuthorised, err)
	case err != nil:
		return nil, fmt.Errorf("%w: the owner's memory: %w", dramnode.ErrUnavailable, err)
	}
	defer file.Close()
	// A file that can get shorter could kill us by SIGBUS.
	seals, err := unix.FcntlInt(file.Fd(), unix.F_GET_SEALS, 0)
	if err != nil || seals&unix.F_SEAL_SHRINK == 0 {
		return nil, fmt.Errorf("%w: %s is no memory of a node", dramnode.ErrUnavailable, path)
	}
	if info, err := file.Stat(); err != nil || uint64(info.Size()) != t.bytes {
		return nil, fmt.Errorf("%w: %s is not the memory of that node", dramnode.ErrUnavailable, path)
	}
	mem, err := syscall.Mmap(int(file.Fd()), 0, int(t.bytes), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("%w: mmap of %s: %w", dramnode.ErrUnavailable, path, err)
	}
	v := &sharedView{mem: mem}
	if C.dn_view_open(&v.c, C.uintptr_t(uintptr(unsafe.Pointer(&mem[0]))), C.uint64_t(len(mem)), (*C.uint8_t)(&t.id[0])) == 0 {
		return nil, errors.Join(fmt.Errorf("%w: %s is not the memory of that node", dramnode.ErrUnavailable, path), syscall.Munmap(mem))
	}
	runtime.AddCleanup(v, func(mem []byte) { _ = syscall.Munmap(mem) }, mem)
	return v, nil
}

// Read implements transport.SharedView.
func (v *sharedView) Read(p transport.Place, key, dst []byte) (transport.SharedValue, transport.SharedOutcome) {
	place := C.dn_place{
		at: C.uint64_t(p.At), generation: C.uint64_t(p.Generation), word: servingWord(p.Epoch),
		partition: C.uint32_t(p.Partition), key_bytes: C.uint32_t(len(key)),
	}
	var value C.dn_value
	outcome := C.dn_view_read(&v.c, &place, unsafe.Pointer(unsafe.SliceData(key)), unsafe.Pointer(unsafe.SliceData(dst)), C.uint64_t(len(dst)), &value)
	runtime.KeepAlive(v)
	return transport.SharedValue{Bytes: int(value.bytes), CRC: uint32(value.crc), Life: time.Duration(value.life)}, transport.SharedOutcome(outcome)
}

// Alive implements transport.SharedView.
func (v *sharedView) Alive() bool {
	alive := C.dn_view_alive(&v.c) != 0
	runtime.KeepAlive(v)
	return alive
}

// Close implements transport.SharedView. It lays zeros over the mapping, in which a reader finds nothing; the addresses
// are free again when nobody has the view any more.
func (v *sharedView) Close() {
	if v.closed.Swap(true) {
		return
	}
	// It can fail only for want of kernel memory; then the pages stay ours for longer.
	_, _ = unix.MmapPtr(-1, 0, unsafe.Pointer(&v.mem[0]), uintptr(len(v.mem)), unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE|unix.MAP_FIXED)
	runtime.KeepAlive(v)
}
