package resp

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/tidwall/redcon"

	"github.com/dramnode/dramnode/client"
)

const (
	readBytes    = 16 << 10    // of the buffer that a connection has for itself
	spareTimeout = time.Second // that an idle connection keeps a long buffer
	patientBytes = 64 << 10    // that must come until the deadline of a command that is not complete
	maxBatch     = 256         // operations of short commands that are sent together
	keptArgs     = 1024
	maxNameBytes = 256 // of CLIENT SETNAME
)

// A conn is one connection, driven by one goroutine.
type conn struct {
	server *Server
	nc     net.Conn
	id     int64
	since  time.Time
	name   string
	known  bool // the password was given, or there is none

	in      []byte // read and not done: in[start:end]
	start   int
	end     int
	charged int // bytes of in that count against the budget
	scan    scanner
	args    [][]byte
	waits   waitsFor
	awaited int // bytes that came after the read deadline was set
	stopped atomic.Bool
	quit    bool
	refused bool  // what the peer sends is no command, or too much
	done    int64 // commands that the server's counter does not have yet

	out     out
	batch   *client.Batch // operations of the commands in pending
	pending []pending
	touched touched
	one     *client.Batch // for commands that take several steps
}

// waitsFor says what the read deadline is about.
type waitsFor int

const (
	anything    waitsFor = iota // no deadline: an idle connection may last
	theRest                     // of a command, for Config.Stall
	useOfBuffer                 // that counts against the budget, for spareTimeout
)

// A pending is a command whose operations are in the batch: n from at on. a and b are what reply needs to know.
type pending struct {
	reply func(c *conn, p *pending)
	at, n int
	a, b  int64
}

func newConn(s *Server, nc net.Conn) *conn {
	c := &conn{
		server: s, nc: nc, id: s.lastID.Add(1), since: time.Now(), known: s.cfg.Password == "",
		in: make([]byte, readBytes), out: out{conn: nc, stall: s.cfg.Stall}, batch: s.store.NewBatch(), one: s.store.NewBatch(),
	}
	c.setLimits()
	return c
}

func (c *conn) setLimits() {
	c.scan.maxArgs, c.scan.maxBulkBytes = maxArgs, c.server.maxBulk()
	c.scan.maxCommandBytes = c.scan.maxBulkBytes + commandSlack
	if !c.known {
		c.scan.maxArgs, c.scan.maxBulkBytes, c.scan.maxCommandBytes = maxArgsBefore, maxBulkBefore, maxArgsBefore*(maxBulkBefore+maxLengthBytes)
	}
}

// run serves until the peer, the server or a fault ends the connection.
func (c *conn) run() {
	defer func() {
		c.batch.Reset()
		c.one.Reset()
		c.server.budget.give(c.charged)
		c.nc.Close()
	}()
	for !c.quit {
		n, err := c.scan.next(c.in[c.start:c.end])
		switch {
		case err != nil:
			c.refuse("ERR " + err.Error())
		case n > 0:
			c.scan.reset()
			c.command(c.in[c.start : c.start+n])
			c.start += n
		default:
			if !c.read() {
				c.quit = true
			}
		}
	}
	c.settle()
	// What the peer has sent and nobody read would make the kernel withdraw the last reply.
	if c.out.flush() == nil {
		c.linger()
	}
}

// command runs one command. Its arguments lie in b, which stays as it is until the batch is settled.
func (c *conn) command(b []byte) {
	complete, args, _, _, err := redcon.ReadNextCommand(b, c.args[:0])
	if c.args = args; cap(c.args) > keptArgs {
		c.args = nil
	}
	switch {
	case err != nil:
		c.refuse("ERR " + err.Error())
	case !complete:
		c.refuse("ERR Protocol error")
	case len(args) > 0:
		c.dispatch(args)
	}
}

// refuse answers what the connection ends with.
func (c *conn) refuse(fault string) {
	c.reply().fault(fault)
	c.quit, c.refused = true, true
}

// read sends what is to be sent and waits for more of the command at the start of the buffer, or for the first
// bytes of the next. False: there is nothing more to do.
func (c *conn) read() bool {
	c.settle()
	c.server.executed.Add(c.done)
	c.done = 0
	if c.out.flush() != nil || !c.makeRoom() || !c.patience() {
		return false
	}
	n, err := c.nc.Read(c.in[c.end:])
	c.end += n
	c.awaited += n
	if n == 0 && c.waits == useOfBuffer && errors.Is(err, os.ErrDeadlineExceeded) && !c.stopped.Load() {
		c.resize(readBytes)
		return true
	}
	return n > 0 || err == nil
}

// makeRoom moves what was not done to the beginning of a buffer that has room for the command. A buffer that
// is too short at least doubles, so that a command of many short arguments is copied a few times only.
func (c *conn) makeRoom() bool {
	left, want := c.end-c.start, len(c.in)
	switch {
	case c.scan.need > len(c.in):
		want = max(c.scan.need, min(2*len(c.in), c.scan.maxCommandBytes))
	case left == 0 && c.server.budget.scarce():
		want = readBytes
	}
	if want != len(c.in) && !c.resize(want) {
		c.refuse(fmt.Sprintf("OOM no buffer of %d bytes is left for this command", want))
		return false
	}
	if c.start > 0 {
		copy(c.in, c.in[c.start:c.end])
		c.start, c.end = 0, left
	}
	return true
}

// resize replaces the buffer by one of so many bytes with what was not done, unless the budget is used up.
func (c *conn) resize(bytes int) bool {
	if !c.charge(bytes - readBytes) {
		return false
	}
	in := make([]byte, bytes)
	c.start, c.end = 0, copy(in, c.in[c.start:c.end])
	c.in = in
	return true
}

// charge makes the buffer count for so many bytes of the budget.
func (c *conn) charge(bytes int) bool {
	if more := bytes - c.charged; more > 0 && !c.server.budget.take(more) {
		return false
	} else if more < 0 {
		c.server.budget.give(-more)
	}
	c.charged = bytes
	return true
}

// patience sets the deadline of the next read. While part of a command is there it moves with every patientBytes, not
// with every byte.
func (c *conn) patience() bool {
	waits, limit := anything, time.Duration(0)
	switch {
	case c.end > c.start:
		waits, limit = theRest, c.server.cfg.Stall
	case c.charged > 0:
		waits, limit = useOfBuffer, spareTimeout
	}
	if waits == c.waits && (waits != theRest || c.awaited < patientBytes) {
		return !c.stopped.Load()
	}
	c.waits, c.awaited = waits, 0
	until := time.Time{}
	if waits != anything {
		until = time.Now().Add(limit)
	}
	// The order matters: stopReading sets the flag first and the deadline then.
	return c.nc.SetReadDeadline(until) == nil && !c.stopped.Load()
}

// stopReading ends the connection once what was read is answered. Any goroutine may call it.
func (c *conn) stopReading() {
	c.stopped.Store(true)
	_ = c.nc.SetReadDeadline(time.Now()) // fails when it has ended
}

// linger closes our side and reads what the peer still sends: for long if it was refused in the middle of that.
func (c *conn) linger() {
	half, ok := c.nc.(interface{ CloseWrite() error })
	limit := lingerTimeout
	if c.refused {
		limit = lingerRefused
	}
	if !ok || half.CloseWrite() != nil || c.nc.SetReadDeadline(time.Now().Add(limit)) != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, c.nc, lingerBytes) // whatever ends it, the connection is closed next
}

const (
	lingerTimeout = 200 * time.Millisecond
	lingerRefused = 5 * time.Second // a stop of the server ends it
	lingerBytes   = 2 << 20
)

// reply is where a command answers that has no operations in the batch. What came before is answered first.
func (c *conn) reply() *out {
	c.settle()
	return &c.out
}

// add returns the batch, for an operation on key. The batch runs first when it is full, or when it has an
// operation on the same key and one of the two writes.
func (c *conn) add(key []byte, write bool) *client.Batch {
	if !c.touched.add(key, write) {
		c.settle()
		c.touched.add(key, write)
	}
	return c.batch
}

// addAll is add for a command on many keys, at most maxBatch: every step-th of keys.
func (c *conn) addAll(keys [][]byte, step int, write bool) *client.Batch {
	if !c.touched.addAll(keys, step, write) {
		c.settle()
		c.touched.addAll(keys, step, write)
	}
	return c.batch
}

// later says how the command is answered whose n operations were added last.
func (c *conn) later(p pending) {
	p.at = c.batch.Len() - p.n
	c.pending = append(c.pending, p)
}

// settle runs the batch and answers its commands in order.
func (c *conn) settle() {
	if len(c.pending) == 0 {
		return
	}
	c.batch.Do(c.server.work)
	for i := range c.pending {
		p := &c.pending[i]
		p.reply(c, p)
		if c.out.full() {
			_ = c.out.flush() // read notices
		}
	}
	c.pending = c.pending[:0]
	c.batch.Reset()
	c.touched.reset()
	if c.out.err != nil {
		c.quit = true
	}
}
