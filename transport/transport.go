// Package transport says what a network must guarantee to the rest of dramnode.
//
// Two networks keep this contract: package ucxnet (UCX) and package transport/memnet (a seeded fake).
// The suite in package transport/transporttest runs on both.
//
// A network moves frames: a request has a header (at most MaxHeaderBytes, opaque here) and a body
// (any length up to the network's limit), and gets at most one reply of the same shape. Everything
// that a network calls back, namely Handler, Completer, Events and Releaser, runs on one of its poller
// goroutines: it must not block, and anything slow goes to another goroutine. Two pollers may call
// back at the same time; for one link or one inbound peer it is always the same poller.
//
// # Who owns memory
//
// Header slices given to a network are copied before the call that takes them returns. Body bytes
// belong to the network from the call that takes them until Body.Release ran, exactly once, whatever
// happened to the frame. Slices that a network hands to a callback are valid until it returns, save
// the memory that the callback itself named in Place.
package transport

import (
	"context"
	"errors"
	"time"
)

// MaxHeaderBytes limits a frame's header: the fixed part, the extension and a key of 4096 bytes.
const MaxHeaderBytes = 4096 + 256

// CopyBytes is the longest body that may lie anywhere in memory: a network copies it. The bytes of a
// longer body must lie in a Region of the same network.
const CopyBytes = 4096

// ErrRefused is what Place returns when the body is not wanted. The handler has replied by then.
var ErrRefused = errors.New("transport: body refused")

// A Network connects this process to its peers.
type Network interface {
	// Dial returns a new link to the UCX address "host:port". It does not wait and does not fail on
	// an unreachable peer: the link connects, and reconnects for ever, until it is closed. Several
	// links to one address are independent. Links do nothing before Run. The error, an
	// dramnode.ErrInvalid, is about the address alone.
	Dial(addr string) (Link, error)

	// Alloc returns n bytes, zeroed, that bodies may lie in and that Place may name.
	Alloc(bytes int) (Region, error)

	// Addr is the address that peers dial, "" when this network only dials.
	Addr() string

	// Run owns the pollers. It returns after ctx ended and every link and inbound peer was closed,
	// every pending call completed with dramnode.ErrClosed and every body released.
	Run(ctx context.Context) error
}

// A Region is memory that a network may read and write by itself until Close. Close it after Run
// returned, or when no frame names it any more.
type Region interface {
	Bytes() []byte
	Close() error
}

// A Link carries calls to one address.
type Link interface {
	// Call sends c and never blocks. From here until c.Completer.Complete returned, c belongs to the
	// link. Calls of one goroutine to one link arrive in order when their bodies travel inline.
	Call(c *Call)

	// CallAll is Call for each of calls in this order, at once: they travel together as far as they fit.
	// The slice is the caller's again when it returns.
	CallAll(calls []*Call)

	// Info returns a snapshot; any goroutine may ask.
	Info() LinkInfo

	// Close completes the pending calls with an error and forgets the peer. It does not wait.
	Close()
}

// A Call is one request and its reply. The zero Call plus Header, Deadline and Completer is ready;
// a Call may be used again once Complete returned.
type Call struct {
	Header []byte // see "Who owns memory"
	Body   Body   // absent when Body.Bytes is empty

	// Deadline ends the call; zero means none. A call whose body or reply body is in flight at its
	// deadline may complete a little later, since memory cannot be taken back from a network card.
	Deadline time.Time

	// Timeout, where Deadline is zero, makes the network set Deadline to so long after it took the call in:
	// it reads its clock once for many calls. Zero means none.
	Timeout time.Duration

	Completer Completer

	Sum Sum // of the reply's body, where PlaceReply named its memory

	// Transport is scratch space of the network while it owns the call.
	Transport struct {
		Next *Call
		Link any
		ID   uint64
		At   int64
	}
}

// A Body is the bulk of a frame. Releaser may be nil. Token tells the releaser which memory it is.
type Body struct {
	Bytes    []byte
	Releaser Releaser
	Token    uint64
}

// Release runs the body's releaser, if it has one.
func (b Body) Release() {
	if b.Releaser != nil {
		b.Releaser.Release(b.Token)
	}
}

// A Sum is the CRC32C (Castagnoli) of a placed body, which the network computes for those who set Wanted
// before the body comes: piece by piece as it arrives, while it is in the cache, and without keeping others
// waiting for all of a long body at once. Who keeps a network's goroutine from its other peers for the
// length of a sum over 16 MiB delays them by milliseconds.
type Sum struct {
	Wanted bool
	Done   bool // CRC is that of the body; never so for a body that came inline
	CRC    uint32
}

// A Releaser gets the memory of a body back: the network does not read it any more.
type Releaser interface{ Release(token uint64) }

// A Completer receives the end of a call.
type Completer interface {
	// PlaceReply names memory in a Region for a reply body of n bytes that has not arrived yet. An
	// error refuses it, and the call completes with that error. Short bodies come without asking.
	PlaceReply(c *Call, header []byte, n int) ([]byte, error)

	// Complete runs exactly once per call. On success header and body are the reply's; body is the
	// slice that PlaceReply returned, or one that is valid until Complete returns. Otherwise err is
	//   dramnode.ErrUnavailable     the peer certainly did not and will not see the request
	//   dramnode.ErrUnknownOutcome  it may have seen it; no reply came before the deadline or the link's end
	//   dramnode.ErrBusy            too many calls or bytes are outstanding on this link; not sent
	//   dramnode.ErrClosed          the link or network was closed; wrapped with one of the first two
	//   dramnode.ErrNotAuthorised   the peer failed the handshake; not sent
	// wrapped with the link's address and cause. Memory named by PlaceReply is the completer's again.
	Complete(c *Call, header, body []byte, err error)
}

// A Keeper is a Completer that takes a long reply body as it is, from a network that has it in this
// process's memory already. Such a network calls KeepReply instead of PlaceReply.
type Keeper interface {
	Completer

	// KeepReply takes body over: its bytes may be read, and not written, until body.Release. Complete
	// follows with the same bytes.
	KeepReply(c *Call, body Body)
}

// A Handler serves the requests of inbound peers.
type Handler interface {
	// Place names memory in a Region for r's body of n bytes, which has not arrived. Short bodies come
	// with Serve, without Place. To refuse, Place calls r.Reply (or r.Detach) and returns ErrRefused:
	// Serve then does not run. Otherwise Serve runs exactly once.
	Place(r *Request, n int) ([]byte, error)

	// Serve handles r. When r.Err is nil it calls either r.Reply or r.Detach, once. When it is not,
	// the placed body did not arrive: the memory is the handler's again and nothing may be replied.
	Serve(r *Request)
}

// A Request is what a handler sees of a frame. It is valid until Place or Serve returns.
type Request struct {
	Peer   *Peer  // never nil; the same pointer for every request of one connection
	Header []byte // opaque; validate it
	Body   []byte // inline, or the memory that Place named
	Placed bool   // Body is the memory that Place named
	Cookie uint64 // the handler's own, carried from Place to Serve
	Sum    Sum    // of a placed body; Place sets Wanted
	Err    error

	// Received is when the network took r in, with a monotonic reading, for handlers that need a time and
	// not an exact one: many requests share one reading of the clock. Zero when the network does not say.
	Received time.Time

	Conn RequestConn // set by the network

	// Scratch is the handler's until Place or Serve returns: room to build a reply in. It is not cleared
	// between requests.
	Scratch [1024]byte
}

// RequestConn is the network's side of a Request.
type RequestConn interface {
	Reply(r *Request, header []byte, body Body)
	Detach(r *Request) Responder
}

// Reply answers r from inside Place or Serve. A body of at most CopyBytes that has no releaser and lies
// in no Region is copied before Reply returns, so it may lie in Scratch.
func (r *Request) Reply(header []byte, body Body) { r.Conn.Reply(r, header, body) }

// Detach returns a responder with which r can be answered later and from any goroutine.
func (r *Request) Detach() Responder { return r.Conn.Detach(r) }

// A Responder answers one request, at most once.
type Responder interface {
	// Respond sends the reply. A reply to a peer that has gone is dropped and its body released. A
	// second Respond is dropped too, releases its body, and returns dramnode.ErrInvalid.
	Respond(header []byte, body Body) error
}

// Role says what a process is in the cluster.
type Role uint8

const (
	RoleNode   Role = 1
	RoleClient Role = 2
)

func (r Role) String() string {
	switch r {
	case RoleNode:
		return "node"
	case RoleClient:
		return "client"
	}
	return "unknown"
}

// A Peer is a process at the other end of a connection, as it introduced itself.
type Peer struct {
	Role        Role
	Name        string // node name, or a client's free text; at most 128 bytes
	Incarnation uint64 // random per process start, never 0
	Addr        string // where it can be dialled; "" for clients
	Transport   string // what carries the bulk of the traffic, as the network reports it: "tcp/lo", "sysv+cma", "mem"
}

// LinkState is where a link is in its life.
type LinkState uint8

const (
	LinkConnecting LinkState = iota // no connection yet, or again
	LinkOpen                        // carries calls
	LinkRefused                     // the peer answered but refused us, or we it; retried slowly
	LinkClosed
)

func (s LinkState) String() string {
	return [...]string{"connecting", "open", "refused", "closed"}[s&3]
}

// LinkInfo is a snapshot of a link.
type LinkInfo struct {
	Addr      string
	State     LinkState
	Peer      Peer          // of the current or the last connection; Incarnation 0 before the first
	Since     time.Time     // of State
	Err       error         // why it is not open; nil when it is
	Opened    uint64        // how often it became open
	RoundTrip time.Duration // of the last heartbeat
	Pending   int           // calls without reply
	Fallback  string        // why it does not go by shared memory though the peer is on this host; "" when it does, or when that is not wanted here
}

// FallbackSoon is the Fallback of a link whose connection by shared memory is being made.
const FallbackSoon = "not connected yet"

// Events tells of links. A nil Events is allowed.
type Events interface {
	LinkUp(l Link, p Peer)
	LinkDown(l Link, err error)
}

// Identity is how this process introduces itself.
type Identity struct {
	Role        Role
	Name        string
	Incarnation uint64
	Cluster     string // cluster name; a peer of another cluster is refused
	Key         []byte // cluster key, nil for none
}

// Timing holds the intervals that every network keeps; the zero value means the defaults.
type Timing struct {
	Heartbeat time.Duration // ping interval, default 250 ms
	Dead      time.Duration // silence after which a connection is closed, default 1 s
	Connect   time.Duration // limit for connecting and handshake, default 1 s
	RetryMin  time.Duration // first pause between attempts, default 50 ms
	RetryMax  time.Duration // longest pause, default 1 s; pauses are jittered
}

// WithDefaults fills the zero fields.
func (t Timing) WithDefaults() Timing {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&t.Heartbeat, 250*time.Millisecond)
	set(&t.Dead, time.Second)
	set(&t.Connect, time.Second)
	set(&t.RetryMin, 50*time.Millisecond)
	set(&t.RetryMax, time.Second)
	return t
}
