package ucxnet

/*
#cgo CFLAGS: -O2 -std=gnu11
#cgo LDFLAGS: -ldl
#cgo nocallback dn_step
#cgo noescape dn_step
#cgo nocallback dn_submit
#cgo noescape dn_submit
#cgo nocallback dn_arm
#cgo noescape dn_arm
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"github.com/dramnode/dramnode"
)

// A Status is UCX's ucs_status_t.
type Status int

// The statuses that mean something to us.
const (
	statusNotConnected Status = -24
	statusConnReset    Status = -25
	statusCanceled     Status = -16
	statusRejected     Status = -23
	statusTimedOut     Status = -20
	statusEndpointTime Status = -80
)

// Error describes s in UCX's words, save where those hide what happened.
func (s Status) Error() string {
	switch s {
	case statusNotConnected: // what the tcp connection manager makes of ECONNREFUSED
		return "connection refused"
	case statusConnReset:
		return "connection reset by peer"
	case statusRejected:
		return "connection rejected by peer"
	case statusEndpointTime:
		return "connection lost"
	}
	return C.GoString(C.dn_status(C.int(s)))
}

// An Error is a UCX status with the call that returned it.
type Error struct {
	Op     string // the C function, such as "ucp_ep_create"
	Status Status
}

func (e *Error) Error() string {
	return "ucxnet: " + e.Op + ": " + C.GoString(C.dn_status(C.int(e.Status)))
}

// Unwrap returns the status.
func (e *Error) Unwrap() error { return e.Status }

// loading serialises what UCX makes process-wide: the library, and the environment in which it and its
// contexts are configured.
var loading struct {
	mu   sync.Mutex
	done bool
}

// loadEnv is read while the library loads.
var loadEnv = map[string]string{
	"UCX_HANDLE_ERRORS": "none",  // leave SIGSEGV to Go, whose traces say more
	"UCX_MEM_EVENTS":    "n",     // no code patching: UCX never sees Go's memory
	"UCX_LOG_LEVEL":     "fatal", // it logs to stdout, and takes a killed peer or a busy port for an error
}

// railEnv is read when contexts and rails open, and shared-memory rails do so at any time: so it is set
// once, for good. What the user set stands.
var railEnv = map[string]string{
	"UCX_MAX_RNDV_RAILS":   "1", // never stripe large values over an unrelated card
	"UCX_TCP_CM_REUSEADDR": "y", // restart on the same port
	"UCX_TCP_CM_SYN_CNT":   "2",
	// Rendezvous over tcp goes by active messages: UCX 1.13.1 aborts when a peer dies with emulated puts
	// under way (tcp_ep.c, handle_put_ack). A fragment is as long as a receive buffer; with UCX's 64 KiB a
	// 16 MiB put has 0.6 of the speed of emulated puts, with 256 KiB 0.9, with 512 KiB the same.
	"UCX_TCP_PUT_ENABLE":  "n",
	"UCX_TCP_RX_SEG_SIZE": "512k",
	// A connect must not block the poller. Also, where a blocking one succeeds and the peer dies before
	// the first byte is sent, UCX 1.13.1 aborts (tcp_ep.c, uct_tcp_ep_destroy_progress).
	"UCX_TCP_CONN_NB":          "y",
	"UCX_TCP_KEEPIDLE":         "1s",
	"UCX_TCP_KEEPINTVL":        "1s",
	"UCX_TCP_KEEPCNT":          "3",
	"UCX_KEEPALIVE_INTERVAL":   "1s",
	"UCX_WARN_UNUSED_ENV_VARS": "n",
	// Shared memory works with error handling then: UCX turns it off otherwise.
	"UCX_MM_ERROR_HANDLING":     "y",
	"UCX_CMA_MEMORY_INVALIDATE": "y",
	// A rail takes this many slots of 8 KiB of shared memory, half of UCX's own default.
	"UCX_SYSV_FIFO_SIZE":    "128",
	"UCX_SYSV_RX_BUFS_GROW": "128",
}

// shmEnv is that of the context for shared memory. Its peers are on this host and in this network
// namespace, so they are reached by the loopback device. The receiver of a body always reads it: a
// peer that wrote into our memory would go on doing so after we gave it up.
//
// Queues are System V segments. UCX names those of its posix transport by pid and descriptor number, and a peer opens some
// only when it first needs them: by then the number may be that of another worker's queue, which the peer damages.
// A cluster of 16 on a busy machine lost a process so in one start of nine (ucp_worker.c, ucp_worker_iface_check_events;
// mm_posix.c, uct_posix_mem_attach_common). The kernel does not give the number of a segment out again for long, and frees
// a segment with its last process, however that ends.
var shmEnv = map[string]string{
	"UCX_TLS":         "tcp,sysv,cma",
	"UCX_NET_DEVICES": "lo",
	"UCX_RNDV_SCHEME": "get_zcopy",
}

// withEnv runs f with the variables set.
func withEnv(vars map[string]string, f func() error) error {
	for k, v := range vars {
		old, set := os.LookupEnv(k)
		if err := os.Setenv(k, v); err != nil {
			return err
		}
		if set {
			defer os.Setenv(k, old)
		} else {
			defer os.Unsetenv(k)
		}
	}
	return f()
}

func loadLocked() error {
	if loading.done {
		return nil
	}
	for _, vars := range []map[string]string{loadEnv, railEnv} {
		for k, v := range vars {
			if _, set := os.LookupEnv(k); set {
				continue
			}
			if err := os.Setenv(k, v); err != nil {
				return err
			}
		}
	}
	var text [256]C.char
	if C.dn_load(&text[0], C.size_t(len(text))) != 0 {
		return fmt.Errorf("ucxnet: libucp.so.0 not found: install libucx0 (Debian, Ubuntu) or ucx (Fedora): %s", C.GoString(&text[0]))
	}
	loading.done = true
	return nil
}

// A ucpContext is one UCX context: one for tcp, one for shared memory. Memory is registered with it, and
// its rails share that.
type ucpContext struct {
	c       *C.dn_context
	shm     bool
	lengths lengths // of its rails
}

// openContext opens the context for tcp by the device ("": any), or for shared memory.
func openContext(shm bool, device string) (*ucpContext, error) {
	loading.mu.Lock()
	defer loading.mu.Unlock()
	if err := loadLocked(); err != nil {
		return nil, err
	}
	vars := shmEnv
	if !shm {
		vars = map[string]string{}
		for k, v := range map[string]string{"UCX_TLS": "tcp", "UCX_NET_DEVICES": device} {
			if _, set := os.LookupEnv(k); !set && v != "" {
				vars[k] = v
			}
		}
	}
	x := &ucpContext{shm: shm, lengths: lengthsOf(shm)}
	err := withEnv(vars, func() error {
		var text [256]C.char
		if x.c = C.dn_open(&text[0], C.size_t(len(text))); x.c == nil {
			return errors.New("ucxnet: " + C.GoString(&text[0]))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return x, nil
}

// close destroys the context, after its rails.
func (x *ucpContext) close() {
	loading.mu.Lock()
	defer loading.mu.Unlock()
	C.dn_close(x.c)
}

// A rail is one UCX worker. Its poller alone uses it. All connections by tcp share one; each connection
// by shared memory has its own, which lives and dies with it.
type rail struct {
	c     *C.dn_rail
	shm   bool
	fd    int    // becomes readable when there is work, after arm
	port  uint16 // of the listener, 0 without
	bound netip.AddrPort
	cmds  []C.dn_cmd
	lengths

	set       *railSet // that it is in
	handled   int      // events of the last step
	awake     bool     // else it is armed and not looked at
	fruitless int      // steps in a row that brought nothing
	lost      uint64   // events, as far as counted

	endpoints map[C.uint64_t]*endpoint // by UCX handle
	unguarded error                    // why the kernel does not filter what comes to the listener; nil: it does
}

// The lengths at which bodies change their way; docs/transfers.md has the measurement (BenchmarkSwitch).
type lengths struct {
	inline int // longest body that is not separate
	eager  int // longest separate body that goes eagerly; longer ones go by rendezvous
	piece  int // longest piece of a body
}

const (
	tcpEagerBytes = 64 << 10
	shmEagerBytes = 16 << 10
)

func lengthsOf(shm bool) lengths {
	if shm {
		return lengths{inline: inlineBytes, eager: shmEagerBytes, piece: wholeBytes}
	}
	return lengths{inline: tcpInlineBytes, eager: tcpEagerBytes, piece: pieceBytes}
}

// openRail makes a worker. By shared memory that takes about a millisecond.
func (x *ucpContext) openRail() (*rail, error) {
	loading.mu.Lock()
	defer loading.mu.Unlock()
	r := &rail{shm: x.shm, lengths: x.lengths, endpoints: map[C.uint64_t]*endpoint{}}
	var text [256]C.char
	var shm C.int
	if x.shm {
		shm = 1
	}
	if r.c = C.dn_open_rail(x.c, shm, &text[0], C.size_t(len(text))); r.c == nil {
		return nil, errors.New("ucxnet: " + C.GoString(&text[0]))
	}
	if r.fd = int(C.dn_efd(r.c)); r.fd < 0 {
		C.dn_close_rail(r.c)
		return nil, errors.New("ucxnet: UCX has no event file descriptor here")
	}
	return r, nil
}

// close destroys the worker. What UCX still held for its endpoints is no longer touched afterwards.
func (r *rail) close() {
	r.quiesce()
	loading.mu.Lock()
	defer loading.mu.Unlock()
	C.dn_close_rail(r.c)
	r.c = nil
}

// listen binds the listener and says plainly why it cannot.
func (r *rail) listen(addr netip.AddrPort) error {
	sa := sockaddr(addr)
	var port C.uint16_t
	status := C.dn_listen(r.c, unsafe.Pointer(&sa[0]), C.size_t(len(sa)), &port)
	if status == 0 {
		r.port = uint16(port)
		r.bound = netip.AddrPortFrom(addr.Addr(), r.port)
		r.unguarded = guardListener(r.port)
		return nil
	}
	// UCX says "Device is busy" and the like; the kernel knows better.
	if probe, err := net.Listen("tcp", addr.String()); err == nil {
		_ = probe.Close()
	} else if errors.Is(err, syscall.EADDRINUSE) {
		return &inUseError{addr}
	} else {
		return fmt.Errorf("listen on %s: %w", addr, err)
	}
	return fmt.Errorf("listen on %s: %w", addr, &Error{"ucp_listener_create", Status(status)})
}

// An inUseError is syscall.EADDRINUSE with the address.
type inUseError struct{ addr netip.AddrPort }

func (e *inUseError) Error() string { return "address already in use: " + e.addr.String() }
func (e *inUseError) Unwrap() error { return syscall.EADDRINUSE }

// Version returns the version of the UCX library in use, loading it if need be.
//
// Implements: void ucp_get_version(unsigned *major, unsigned *minor, unsigned *release)
func Version() (string, error) {
	loading.mu.Lock()
	defer loading.mu.Unlock()
	if err := loadLocked(); err != nil {
		return "", err
	}
	var major, minor, release C.uint
	C.dn_version(&major, &minor, &release)
	return fmt.Sprintf("%d.%d.%d", major, minor, release), nil
}

// command returns a new command of the next step; the pointer is valid until the next call.
func (r *rail) command(op C.uint16_t) *C.dn_cmd {
	if !r.awake && r.set != nil {
		r.set.wake(r)
	}
	r.cmds = append(r.cmds, C.dn_cmd{op: op})
	return &r.cmds[len(r.cmds)-1]
}

// step runs the commands, lets UCX progress, and returns the number of events, for next. What the earlier ones
// named is gone.
func (r *rail) step(rounds int) int {
	n := len(r.cmds)
	var first *C.dn_cmd
	if n > 0 {
		first = &r.cmds[0]
	}
	count := C.dn_step(r.handle(), first, C.int(n), C.int(rounds), C.uint32_t(r.handled))
	r.cmds, r.handled = r.cmds[:0], 0
	return int(count)
}

// handle is r.c as a number; it is C memory.
func (r *rail) handle() C.uintptr_t { return C.uintptr_t(uintptr(unsafe.Pointer(r.c))) }

// next returns the next event; what it names is valid until the next step.
func (r *rail) next() (e C.dn_event, ok bool) {
	if r.handled == int(r.c.count) {
		return e, false
	}
	r.handled++
	return unsafe.Slice(r.c.events, r.handled)[r.handled-1], true
}

// submit gives UCX the commands now, if all are sends: the peer has something to do while we make more of them.
// Others wait for the step, since events of before may name what they end.
func (r *rail) submit() {
	for i := range r.cmds {
		if r.cmds[i].op != C.DN_SEND {
			return
		}
	}
	if n := len(r.cmds); n > 0 {
		C.dn_submit(r.handle(), &r.cmds[0], C.int(n))
		r.cmds = r.cmds[:0]
	}
}

// turnAway accepts and closes what connects, and refuses a rendezvous, when there is no poller any more.
// It returns by how much the number of endpoints changes.
func (r *rail) turnAway(e *C.dn_event) (endpoints int) {
	switch {
	case e.kind == C.DN_EV_CONN:
		r.command(C.DN_ACCEPT).ep = e.ep
	case e.kind == C.DN_EV_EP && e.status == 0:
		r.command(C.DN_CLOSE).ep = e.ep
		return 1
	case e.kind == C.DN_EV_CLOSED:
		return -1
	case e.flags&C.DN_RNDV_DESC != 0:
		r.command(C.DN_RELEASE).ep = e.data
	}
	return 0
}

// arm reports whether the rail has nothing to do and its fd will tell when it has.
func (r *rail) arm() bool { return C.dn_arm(r.c) == 0 }

// lanes asks UCX what carries the endpoint.
func (r *rail) lanes(ep C.uint64_t) string {
	text := make([]byte, 8192)
	n := C.dn_ep_info(ep, (*C.char)(unsafe.Pointer(&text[0])), C.size_t(len(text)))
	return parseLanes(string(text[:n]))
}

// cBytes views C memory that UCX filled.
func cBytes(at C.uint64_t, n int) []byte {
	if at == 0 || n == 0 {
		return nil
	}
	// The address came from C as an integer; it is not Go memory, so the collector has no part in it.
	return unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&at))), n)
}

func cAddr(b []byte) C.uint64_t {
	if len(b) == 0 {
		return 0
	}
	return C.uint64_t(uintptr(unsafe.Pointer(&b[0])))
}

// A buffer is C memory for messages on their way out. used is what was appended to it.
type buffer struct {
	mem  unsafe.Pointer
	cap  int
	used []byte
}

// Three sizes: the header part of a frame with a separate body mostly fits the small one; the large one
// holds a full batch, or the longest header with a body that is copied; the wide one a batch of long frames.
const (
	smallBufferBytes = 512
	largeBufferBytes = 9216
	wideBufferBytes  = 32 << 10
	keptBuffers      = 256 // free buffers kept of each size
	keptWideBuffers  = 64
)

func newBuffer(bytes int) *buffer {
	b := &buffer{mem: C.malloc(C.size_t(bytes)), cap: bytes}
	b.reset()
	return b
}

func (b *buffer) reset() { b.used = unsafe.Slice((*byte)(b.mem), b.cap)[:0] }

func (b *buffer) free() { C.free(b.mem) }

// sockaddr encodes addr for C.
func sockaddr(addr netip.AddrPort) []byte {
	port := addr.Port()
	if ip := addr.Addr().Unmap(); ip.Is4() {
		sa := syscall.RawSockaddrInet4{Family: syscall.AF_INET, Port: port<<8 | port>>8, Addr: ip.As4()}
		return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&sa)), unsafe.Sizeof(sa))...)
	}
	sa := syscall.RawSockaddrInet6{Family: syscall.AF_INET6, Port: port<<8 | port>>8, Addr: addr.Addr().As16()}
	if z, err := net.InterfaceByName(addr.Addr().Zone()); err == nil {
		sa.Scope_id = uint32(z.Index)
	}
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&sa)), unsafe.Sizeof(sa))...)
}

// parseSockaddr is the reverse, for reports.
func parseSockaddr(b []byte) string {
	if len(b) < syscall.SizeofSockaddrInet6 {
		return "unknown"
	}
	port := uint16(b[2])<<8 | uint16(b[3])
	switch uint16(b[0]) | uint16(b[1])<<8 {
	case syscall.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), port).String()
	case syscall.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])), port).String()
	}
	return "unknown"
}

// resolve finds the address to listen on, and UCX's device for it ("" for the unspecified address).
func resolveListen(listen string) (addr netip.AddrPort, device string, err error) {
	tcp, err := net.ResolveTCPAddr("tcp", listen)
	if err != nil {
		return addr, "", fmt.Errorf("%w: listen address %q: %w", dramnode.ErrInvalid, listen, err)
	}
	addr = tcp.AddrPort()
	if !addr.Addr().IsValid() {
		addr = netip.AddrPortFrom(netip.IPv4Unspecified(), addr.Port())
	}
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	return addr, deviceOf(addr.Addr()), nil
}

func deviceOf(ip netip.Addr) string {
	if ip.IsUnspecified() {
		return ""
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return ""
	}
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil &&
				(p.Addr() == ip.WithZone("") || ip.IsLoopback() && p.Addr().IsLoopback()) {
				return i.Name
			}
		}
	}
	return ""
}
