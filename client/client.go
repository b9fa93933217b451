package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/transport"
)

// DefaultAddr is where a client looks for a node when it is told nothing.
const DefaultAddr = "127.0.0.1:12345"

// Config describes a client. Network is required; the rest has defaults.
type Config struct {
	// Network reaches the nodes. The client runs it, from Open to Close, and nobody else may. After an
	// error of Open it has ended, unless the error is about this Config.
	Network transport.Network

	Addrs       []string      // any nodes of the cluster, "host:port"; default DefaultAddr
	Timeout     time.Duration // of operations whose context has no deadline; default 5 s
	MemoryBytes int           // address space for bodies beyond transport.CopyBytes; default 256 MiB
	Outstanding int           // requests that futures, and each multi operation, have under way at once; default 1024
	NoVerify    bool          // do not compare the checksum of whole values that were read

	// Direct reads whole values from the memory of nodes of this host that let it, and asks a node only when that
	// is in doubt. Network must be a transport.Sharer. It costs memory for DirectKeys places; default 131072.
	Direct     bool
	DirectKeys int

	// Via is the address of a node that gets every read and write of a key, as if the client did not know
	// the owners; "" for none. It is for measuring what forwarding costs.
	Via string
}

func (c Config) withDefaults() Config {
	if len(c.Addrs) == 0 {
		c.Addrs = []string{DefaultAddr}
	}
	if c.Timeout == 0 {
		c.Timeout = 5 * time.Second
	}
	if c.MemoryBytes == 0 {
		c.MemoryBytes = 256 << 20
	}
	if c.Outstanding == 0 {
		c.Outstanding = 1024
	}
	if c.DirectKeys == 0 {
		c.DirectKeys = 1 << 17
	}
	return c
}

// Validate reports every fault at once.
func (c Config) Validate() error {
	c = c.withDefaults()
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("client: %w: %s", dramnode.ErrInvalid, fmt.Sprintf(format, args...)))
	}
	if c.Network == nil {
		fault("Network is nil")
	}
	if c.Timeout < 0 {
		fault("Timeout = %v, want more than 0", c.Timeout)
	}
	if c.MemoryBytes < unitBytes {
		fault("MemoryBytes = %d, want at least %d", c.MemoryBytes, unitBytes)
	}
	if c.Outstanding < 1 {
		fault("Outstanding = %d, want at least 1", c.Outstanding)
	}
	if c.DirectKeys < 1 {
		fault("DirectKeys = %d, want at least 1", c.DirectKeys)
	}
	if _, ok := c.Network.(transport.Sharer); c.Direct && !ok {
		fault("Direct with a network that cannot share memory")
	}
	if c.Direct && c.Via != "" {
		fault("Direct with Via %s: all reads are that node's", c.Via)
	}
	return errors.Join(faults...)
}

// A Client reads and writes the values of one cluster. Any goroutine may use it.
type Client struct {
	cfg    Config
	id     uint64 // with a counter, names a write
	pool   *pool  // for values
	spare  *pool  // for everything else, so that values in memory never keep a table out
	peers  *peers
	via    *peer     // nil: owners are asked
	direct *direct   // nil without Config.Direct
	calls  sync.Pool // of *call
	acks   acks
	slots  slots
	view   atomic.Pointer[view]

	fetching chan struct{} // a token while the table is being fetched
	stale    chan struct{} // a token asks keep for a newer table
	mu       sync.Mutex    // guards changes of view

	cancel context.CancelFunc
	wg     sync.WaitGroup
	ended  chan struct{} // closed when the network has ended
	runErr error         // of the network; valid after ended
}

// Open connects to the cluster and returns once a node has told who owns what. It fails with
// dramnode.ErrUnavailable when no address answers before ctx, or Config.Timeout, ends, and with
// dramnode.ErrNotAuthorised as soon as the nodes refuse this client.
func Open(ctx context.Context, cfg Config) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	pool, err := newPool(cfg.Network, cfg.MemoryBytes)
	if err != nil {
		return nil, errors.Join(err, endUnused(cfg.Network))
	}
	spare, err := newPool(cfg.Network, spareBytes)
	if err != nil {
		err = errors.Join(err, endUnused(cfg.Network))
		pool.close()
		return nil, err
	}
	c := &Client{
		cfg:      cfg,
		id:       rand.Uint64() | 1,
		pool:     pool,
		spare:    spare,
		peers:    newPeers(cfg.Network),
		fetching: make(chan struct{}, 1),
		stale:    make(chan struct{}, 1),
		ended:    make(chan struct{}),
	}
	c.slots.init(cfg.Outstanding)
	if cfg.Direct {
		c.direct = &direct{sharer: cfg.Network.(transport.Sharer), places: newPlaces(cfg.DirectKeys)} // Validate has looked
	}
	runCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c.cancel = cancel
	c.wg.Go(func() {
		defer close(c.ended)
		c.runErr = cfg.Network.Run(runCtx)
	})
	c.wg.Go(func() { c.keep(runCtx) })
	if c.direct != nil {
		c.wg.Go(func() { c.keepShares(runCtx) })
	}
	if err := c.firstTable(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// endUnused runs a network just to end it: Run is what gives its resources back.
func endUnused(n transport.Network) error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return n.Run(ctx)
}

// Close ends the pending operations with an error and returns once everything that Open started has
// ended. The error is the network's, if it had failed.
func (c *Client) Close() error {
	c.cancel()
	c.wg.Wait()
	c.pool.close()
	c.spare.close()
	if c.runErr != nil && !errors.Is(c.runErr, context.Canceled) {
		return fmt.Errorf("client: %w", c.runErr)
	}
	return nil
}

// closedErr returns an error once the network has ended.
func (c *Client) closedErr() error {
	select {
	case <-c.ended:
	default:
		return nil
	}
	if c.runErr != nil {
		return fmt.Errorf("client: %w: %w", dramnode.ErrClosed, c.runErr)
	}
	return fmt.Errorf("client: %w", dramnode.ErrClosed)
}

// firstTable asks every given address until one has answered with a table.
func (c *Client) firstTable(ctx context.Context) error {
	for _, addr := range c.cfg.Addrs {
		if _, err := c.peers.seed(addr); err != nil {
			return err
		}
	}
	if c.cfg.Via != "" {
		via, err := c.peers.seed(c.cfg.Via)
		if err != nil {
			return err
		}
		c.via = via // before the first request of a key, which needs a table
	}
	deadline := c.deadline(ctx)
	var last error
	for try := 0; ; try++ {
		err := c.askAll(ctx, earlier(deadline, time.Now().Add(tableTimeout)))
		if err == nil {
			return nil
		}
		for _, p := range c.peers.all() {
			if refused := p.refusal(); refused != nil {
				return refused
			}
		}
		if errors.Is(err, dramnode.ErrNotAuthorised) || c.closedErr() != nil {
			return err
		}
		last = err
		if err := c.pause(ctx, backoff(try), deadline); err != nil {
			return c.nobody(last)
		}
	}
}

// askAll asks all peers at once for their table and returns when one has told it, or none does.
func (c *Client) askAll(ctx context.Context, deadline time.Time) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	peers := c.peers.all()
	answers := make(chan error, len(peers))
	var wg sync.WaitGroup
	defer wg.Wait() // soon, since cancel runs first
	for _, p := range peers {
		wg.Go(func() { answers <- c.fetch(ctx, p, deadline) })
	}
	var last error
	for range peers {
		if last = <-answers; last == nil || errors.Is(last, dramnode.ErrNotAuthorised) {
			cancel()
			return last
		}
	}
	return last
}

// nobody explains that no address answers.
func (c *Client) nobody(last error) error {
	if last == nil {
		last = context.DeadlineExceeded
	}
	for _, p := range c.peers.all() {
		info := p.link.Info()
		if info.State == transport.LinkOpen {
			return fmt.Errorf("client: %s answers without a table: %w", p.addr, last)
		}
		if info.Err != nil {
			last = info.Err
		}
	}
	return &unreachableError{addrs: c.cfg.Addrs, err: last}
}

// An unreachableError says that no address answers, and why in the fewest words.
type unreachableError struct {
	addrs []string
	err   error
}

func (e *unreachableError) Error() string {
	return fmt.Sprintf("no node answers at %s: %v; is it running?", strings.Join(e.addrs, ", "), leaf(e.err))
}

func (e *unreachableError) Unwrap() []error { return []error{dramnode.ErrUnavailable, e.err} }

// leaf is the innermost error of err: what happened, without who says so.
func leaf(err error) error {
	for {
		switch e := err.(type) {
		case interface{ Unwrap() error }:
			if e.Unwrap() == nil {
				return err
			}
			err = e.Unwrap()
		case interface{ Unwrap() []error }:
			all := e.Unwrap()
			if len(all) == 0 {
				return err
			}
			err = all[len(all)-1]
		default:
			return err
		}
	}
}

// deadline is when an operation under ctx must have ended.
func (c *Client) deadline(ctx context.Context) time.Time { return c.deadlineFrom(ctx, time.Now()) }

func (c *Client) deadlineFrom(ctx context.Context, now time.Time) time.Time {
	deadline, ok := ctx.Deadline()
	if !ok {
		return now.Add(c.cfg.Timeout)
	}
	// The network's error is more exact than "the context ended": let it come first.
	return deadline.Add(-min(deadlineMargin, max(0, deadline.Sub(now))/8))
}

// opDeadline is the deadline of an operation about to start. Zero stands for Config.Timeout, which o notes.
func (c *Client) opDeadline(ctx context.Context, o *op) time.Time {
	if _, ok := ctx.Deadline(); !ok {
		o.timeout = c.cfg.Timeout
		return time.Time{}
	}
	o.now = time.Now()
	return c.deadlineFrom(ctx, o.now)
}

const (
	deadlineMargin = 5 * time.Millisecond
	spareBytes     = 4 << 20 // twice the longest table, or pages of 16 nodes
)

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// Table returns the newest table that the client knows. It is shared and must not be changed.
func (c *Client) Table() *control.Table { return c.view.Load().table }
