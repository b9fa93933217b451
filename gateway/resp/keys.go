package resp

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
)

const (
	maxCursors    = 4096 // scans that can go on at once
	defaultCount  = 10   // keys of a page of SCAN
	maxCount      = 10_000
	maxKeysReply  = 64 << 20 // bytes of the answer to KEYS
	keysStepBytes = 1 << 20  // by which that is taken from the budget
)

// cursors are where scans go on. A table full of them forgets the oldest.
type cursors struct {
	mu    sync.Mutex
	after map[uint64][]byte // the last key of the page before
	order [maxCursors]uint64
	next  uint64 // number of cursors so far
}

// add returns a new cursor, which is not 0.
func (t *cursors) add(after []byte) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.after == nil {
		t.after = map[uint64][]byte{}
	}
	t.next++
	slot := &t.order[t.next%maxCursors]
	delete(t.after, *slot)
	*slot = t.next
	t.after[t.next] = bytes.Clone(after)
	return t.next
}

func (t *cursors) get(cursor uint64) (after []byte, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	after, ok = t.after[cursor]
	return after, ok
}

// scanOptions are what follows the cursor of SCAN.
type scanOptions struct {
	match glob // nil: all
	count int
	other bool // a TYPE that no key has
}

func parseScan(args [][]byte) (o scanOptions, fault string) {
	o.count = defaultCount
	for ; len(args) > 0; args = args[2:] {
		if len(args) < 2 {
			return o, syntaxError
		}
		switch strings.ToUpper(string(args[0][:min(len(args[0]), maxCommandName)])) {
		case "MATCH":
			o.match = glob(args[1])
		case "COUNT":
			n, ok := parseInt(args[1])
			if !ok {
				return o, notInteger
			}
			if n < 1 {
				return o, syntaxError
			}
			o.count = int(min(n, maxCount))
		case "TYPE":
			o.other = !strings.EqualFold(string(args[1]), "string")
		default:
			return o, syntaxError
		}
	}
	return o, ""
}

// scan answers with the next page in the order of keys, so that a key that is there all the time comes exactly
// once.
func scan(c *conn, args [][]byte) {
	w := c.reply()
	cursor, err := strconv.ParseUint(string(args[0][:min(len(args[0]), 32)]), 10, 64)
	after, known := c.server.cursors.get(cursor)
	if err != nil || cursor != 0 && !known {
		w.fault("ERR invalid cursor")
		return
	}
	o, fault := parseScan(args[1:])
	if fault != "" {
		w.fault(fault)
		return
	}
	q := client.Query{Prefix: o.match.prefix(), After: after, Limit: o.count}
	var found [][]byte
	var last []byte
	seen := 0
	for e, err := range c.list(q) {
		if err != nil {
			w.fault(faultOf(err))
			return
		}
		seen, last = seen+1, e.Key
		if !o.other && (o.match == nil || o.match.match(e.Key)) {
			found = append(found, e.Key)
		}
	}
	next := uint64(0)
	if seen == o.count {
		next = c.server.cursors.add(last)
	}
	w.array(2)
	w.text(strconv.FormatUint(next, 10))
	w.array(len(found))
	for _, key := range found {
		w.bulk(key)
	}
}

// list is Store.List, where a prefix that no key can have matches nothing.
func (c *conn) list(q client.Query) func(func(client.Entry, error) bool) {
	if len(q.Prefix) > dramnode.MaxKeyBytes {
		return func(func(client.Entry, error) bool) {}
	}
	return c.server.store.List(c.server.work, q)
}

// keys collects the whole answer, whose length comes first in it.
func keys(c *conn, args [][]byte) {
	w, match := c.reply(), glob(args[0])
	everything := match.all()
	var found []byte
	n, charged := 0, 0
	defer func() { c.server.budget.give(charged) }()
	for e, err := range c.list(client.Query{Prefix: match.prefix()}) {
		if err != nil {
			w.fault(faultOf(err))
			return
		}
		if !everything && !match.match(e.Key) {
			continue
		}
		if len(found)+len(e.Key) > charged {
			if charged >= maxKeysReply || !c.server.budget.take(keysStepBytes) {
				w.fault(fmt.Sprintf("OOM the keys that match take more than %d bytes: use SCAN", charged))
				return
			}
			charged += keysStepBytes
		}
		n++
		found = strconv.AppendInt(append(found, '$'), int64(len(e.Key)), 10)
		found = append(append(append(found, "\r\n"...), e.Key...), "\r\n"...)
	}
	w.array(n)
	w.buf = append(w.buf, found...)
	_ = w.flush() // while the budget still counts it
}

func typeOf(c *conn, args [][]byte) {
	c.add(args[0], false).Stat(args[0])
	c.later(pending{reply: replyType, n: 1})
}

func replyType(c *conn, p *pending) {
	switch err := c.batch.Err(p.at); {
	case err == nil:
		c.out.simple("string")
	case errors.Is(err, dramnode.ErrNotFound):
		c.out.simple("none")
	default:
		c.out.fault(faultOf(err))
	}
}

func dbsize(c *conn, _ [][]byte) {
	w := c.reply()
	n, _, err := c.server.totals(c)
	if err != nil {
		w.fault(faultOf(err))
		return
	}
	w.integer(n)
}

// totals returns the number of entries of the cluster, and the bytes that they and their copies use.
func (s *Server) totals(c *conn) (entries, used int64, err error) {
	for _, n := range s.store.Nodes(s.work) {
		if n.Err != nil {
			return 0, 0, fmt.Errorf("node %s: %w", n.Name, n.Err)
		}
		entries += int64(n.Info.OwnedEntries)
		used += int64(n.Info.Memory.Used)
	}
	return entries, used, nil
}
