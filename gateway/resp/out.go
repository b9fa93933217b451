package resp

import (
	"net"
	"strconv"
	"time"

	"github.com/tidwall/redcon"

	"github.com/dramnode/dramnode/client"
)

const (
	longBytes    = 16 << 10 // values from here on are sent from where they lie
	flushBytes   = 64 << 10 // of copied replies, after which they are sent
	flushLent    = 1 << 20  // of lent values, likewise
	flushCuts    = 64
	keptOutBytes = 128 << 10 // a longer buffer is not kept
	writeRate    = 256 << 10 // bytes/s that a reader must take
)

// An out collects the replies to one connection and sends them. After the first failed write it drops
// everything.
type out struct {
	conn  net.Conn
	buf   []byte
	cuts  []cut
	lent  int         // bytes in cuts
	parts net.Buffers // memory for flush
	stall time.Duration
	until time.Time // the deadline of writing
	err   error
}

// A cut is a long value that is sent between the bytes before and from at in buf.
type cut struct {
	at    int
	bytes []byte
	hold  *client.Buffer
}

func (w *out) ok()                { w.buf = append(w.buf, "+OK\r\n"...) }
func (w *out) null()              { w.buf = append(w.buf, "$-1\r\n"...) }
func (w *out) simple(text string) { w.buf = redcon.AppendString(w.buf, text) }
func (w *out) array(n int)        { w.buf = redcon.AppendArray(w.buf, n) }
func (w *out) text(text string)   { w.buf = redcon.AppendBulkString(w.buf, text) }

// fault is an error reply: a code in capitals and a text. Line ends, which a client's own words may have
// brought in, become spaces.
func (w *out) fault(text string) {
	w.buf = append(w.buf, '-')
	for i := range len(text) {
		b := text[i]
		if b == '\r' || b == '\n' {
			b = ' '
		}
		w.buf = append(w.buf, b)
	}
	w.buf = append(w.buf, '\r', '\n')
}

func (w *out) integer(v int64) { w.line(':', v) }

func (w *out) line(kind byte, v int64) {
	w.buf = append(w.buf, kind)
	w.buf = strconv.AppendInt(w.buf, v, 10)
	w.buf = append(w.buf, '\r', '\n')
}

func (w *out) bulk(b []byte) {
	w.line('$', int64(len(b)))
	w.buf = append(w.buf, b...)
	w.buf = append(w.buf, '\r', '\n')
}

// value is bulk for the bytes of an operation, a part of which they may be. Long ones are kept where they are
// until they were sent.
func (w *out) value(b *client.Batch, i int, part []byte) {
	if len(part) < longBytes {
		w.bulk(part)
		return
	}
	hold := b.Take(i)
	if hold == nil {
		w.bulk(part)
		return
	}
	w.line('$', int64(len(part)))
	w.cuts = append(w.cuts, cut{len(w.buf), part, hold})
	w.lent += len(part)
	w.buf = append(w.buf, '\r', '\n')
}

// full reports that what was collected should be sent before more is added.
func (w *out) full() bool {
	return len(w.buf) >= flushBytes || w.lent >= flushLent || len(w.cuts) >= flushCuts
}

// flush sends what was collected and releases what was lent.
func (w *out) flush() error {
	if len(w.buf) > 0 && w.err == nil {
		w.extend(len(w.buf) + w.lent)
		w.err = w.send()
	}
	for i := range w.cuts {
		w.cuts[i].hold.Release()
	}
	clear(w.cuts)
	w.cuts, w.lent = w.cuts[:0], 0
	if w.buf = w.buf[:0]; cap(w.buf) > keptOutBytes {
		w.buf = nil
	}
	return w.err
}

func (w *out) send() error {
	if len(w.cuts) == 0 {
		_, err := w.conn.Write(w.buf)
		return err
	}
	parts, at := w.parts[:0], 0
	for _, c := range w.cuts {
		parts = append(parts, w.buf[at:c.at], c.bytes)
		at = c.at
	}
	parts = append(parts, w.buf[at:])
	w.parts = parts // WriteTo advances its receiver
	_, err := parts.WriteTo(w.conn)
	clear(w.parts)
	return err
}

// extend gives the reader time for so many bytes. The deadline is moved only now and then: moving it costs
// more than a short reply.
func (w *out) extend(bytes int) {
	need := time.Now().Add(w.stall + time.Duration(bytes/writeRate)*time.Second)
	if w.until.After(need) {
		return
	}
	w.until = need.Add(w.stall)
	w.err = w.conn.SetWriteDeadline(w.until)
}
