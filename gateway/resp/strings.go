package resp

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
)

// chunk is how many operations of a command on many keys run at once.
const chunk = maxBatch

func get(c *conn, args [][]byte) {
	c.add(args[0], false).Get(args[0])
	c.later(pending{reply: replyGet, n: 1})
}

func replyGet(c *conn, p *pending) { c.replyValue(c.batch, p.at) }

// replyValue answers with what operation i read.
func (c *conn) replyValue(b *client.Batch, i int) {
	switch err := b.Err(i); {
	case err == nil:
		c.out.value(b, i, b.Bytes(i))
	case errors.Is(err, dramnode.ErrNotFound):
		c.out.null()
	default:
		c.out.fault(faultOf(err))
	}
}

func mget(c *conn, args [][]byte) {
	if len(args) > chunk {
		mgetMany(c, args)
		return
	}
	b := c.addAll(args, 1, false)
	for _, key := range args {
		b.Get(key)
	}
	c.later(pending{reply: replyMget, n: len(args)})
}

func replyMget(c *conn, p *pending) {
	if err := c.failure(c.batch, p.at, p.n); err != nil {
		c.out.fault(faultOf(err))
		return
	}
	c.out.array(p.n)
	for i := p.at; i < p.at+p.n; i++ {
		c.replyValue(c.batch, i)
	}
}

// failure is the first error of these operations that is not a missing key.
func (c *conn) failure(b *client.Batch, at, n int) error {
	for i := at; i < at+n; i++ {
		if err := b.Err(i); err != nil && !errors.Is(err, dramnode.ErrNotFound) {
			return err
		}
	}
	return nil
}

// mgetMany reads and answers in chunks. A fault after the first of them stands in the place of the value.
func mgetMany(c *conn, args [][]byte) {
	c.settle()
	for at := 0; at < len(args); at += chunk {
		part := args[at:min(at+chunk, len(args))]
		c.one.Reset()
		for _, key := range part {
			c.one.Get(key)
		}
		c.one.Do(c.server.work)
		if at == 0 {
			if err := c.failure(c.one, 0, len(part)); err != nil {
				c.out.fault(faultOf(err))
				return
			}
			c.out.array(len(args))
		}
		for i := range part {
			c.replyValue(c.one, i)
			if c.out.full() && c.out.flush() != nil {
				c.quit = true
				return
			}
		}
	}
}

// mset writes the values, each on its own: a cluster has no way to write several keys at once.
func mset(c *conn, args [][]byte) {
	if len(args)%2 != 0 {
		c.reply().fault(wrongArity("mset"))
		return
	}
	if len(args) > chunk || repeats(args) {
		msetMany(c, args)
		return
	}
	b := c.addAll(args, 2, true)
	for i := 0; i < len(args); i += 2 {
		b.Put(args[i], args[i+1])
	}
	c.later(pending{reply: replyMset, n: len(args) / 2})
}

// repeats reports that a key comes twice in a short list of keys and values.
func repeats(args [][]byte) bool {
	for i := 2; i < len(args); i += 2 {
		for j := 0; j < i; j += 2 {
			if bytes.Equal(args[i], args[j]) {
				return true
			}
		}
	}
	return false
}

func replyMset(c *conn, p *pending) {
	if done, err := written(c.batch, p.at, p.n); err != nil {
		c.out.fault(partly(err, done, p.n))
		return
	}
	c.out.ok()
}

// written counts the writes that succeeded, and returns the first error.
func written(b *client.Batch, at, n int) (done int, first error) {
	for i := at; i < at+n; i++ {
		err := b.Err(i)
		if err == nil {
			done++
		} else if first == nil {
			first = err
		}
	}
	return done, first
}

// partly says err of a command that wrote some of its keys.
func partly(err error, done, of int) string {
	if done == 0 && of == 1 {
		return faultOf(err)
	}
	return fmt.Sprintf("%s (%d of %d keys were written)", faultOf(err), done, of)
}

// msetMany writes in chunks, in each of which a key comes once, so that the last value wins.
func msetMany(c *conn, args [][]byte) {
	c.settle()
	done := 0
	run := func() error {
		c.one.Do(c.server.work)
		n, err := written(c.one, 0, c.one.Len())
		done += n
		c.one.Reset()
		c.touched.reset()
		return err
	}
	c.one.Reset()
	for i := 0; i < len(args); i += 2 {
		if !c.touched.add(args[i], true) {
			if err := run(); err != nil {
				c.out.fault(partly(err, done, len(args)/2))
				return
			}
			c.touched.add(args[i], true)
		}
		c.one.Put(args[i], args[i+1])
	}
	if err := run(); err != nil {
		c.out.fault(partly(err, done, len(args)/2))
		return
	}
	c.out.ok()
}

// A counting is a command that counts the keys for which an operation finds a value.
type counting struct {
	write bool
	add   func(b *client.Batch, key []byte)
	found func(b *client.Batch, i int) bool
}

var (
	deletes = counting{true, func(b *client.Batch, key []byte) { b.Remove(key) },
		func(b *client.Batch, i int) bool { return b.Meta(i).Generation != dramnode.Absent }}
	looks = counting{false, (*client.Batch).Stat, func(*client.Batch, int) bool { return true }}
)

func del(c *conn, args [][]byte)    { count(c, args, &deletes, replyDeleted) }
func exists(c *conn, args [][]byte) { count(c, args, &looks, replyExists) }

func count(c *conn, args [][]byte, what *counting, reply func(*conn, *pending)) {
	if len(args) > chunk {
		countMany(c, args, what)
		return
	}
	b := c.addAll(args, 1, what.write)
	for _, key := range args {
		what.add(b, key)
	}
	c.later(pending{reply: reply, n: len(args)})
}

func replyDeleted(c *conn, p *pending) { replyCount(c, p, &deletes) }
func replyExists(c *conn, p *pending)  { replyCount(c, p, &looks) }

func replyCount(c *conn, p *pending, what *counting) {
	n, err := what.count(c.batch, p.at, p.n)
	if err != nil && what.write {
		c.out.fault(partly(err, n, p.n))
	} else if err != nil {
		c.out.fault(faultOf(err))
	} else {
		c.out.integer(int64(n))
	}
}

// count returns how many of these operations found a value, and the first error.
func (what *counting) count(b *client.Batch, at, n int) (found int, first error) {
	for i := at; i < at+n; i++ {
		err := b.Err(i)
		switch {
		case err == nil && what.found(b, i):
			found++
		case err != nil && !errors.Is(err, dramnode.ErrNotFound) && first == nil:
			first = err
		}
	}
	return found, first
}

func countMany(c *conn, args [][]byte, what *counting) {
	c.settle()
	total := 0
	for at := 0; at < len(args); at += chunk {
		part := args[at:min(at+chunk, len(args))]
		c.one.Reset()
		for _, key := range part {
			what.add(c.one, key)
		}
		c.one.Do(c.server.work)
		n, err := what.count(c.one, 0, len(part))
		if total += n; err != nil {
			c.out.fault(partly(err, total, len(args)))
			return
		}
	}
	c.out.integer(int64(total))
}

func strlen(c *conn, args [][]byte) {
	c.add(args[0], false).Stat(args[0])
	c.later(pending{reply: replyStrlen, n: 1})
}

func replyStrlen(c *conn, p *pending) {
	switch err := c.batch.Err(p.at); {
	case err == nil:
		c.out.integer(c.batch.Meta(p.at).Size)
	case errors.Is(err, dramnode.ErrNotFound):
		c.out.integer(0)
	default:
		c.out.fault(faultOf(err))
	}
}

// getrange reads from the first byte wanted to the value's end, or less where it is known; what is too much
// is cut off when the value's length is known.
func getrange(c *conn, args [][]byte) {
	start, ok := parseInt(args[1])
	end, ok2 := parseInt(args[2])
	if !ok || !ok2 {
		c.reply().fault(notInteger)
		return
	}
	from := client.Range(max(start, 0), -1)
	switch {
	case start < 0:
		from = client.Suffix(-max(start, -maxOffset))
	case end >= start && end < maxOffset:
		from = client.Range(start, end+1)
	}
	c.add(args[0], false).Get(args[0], from, client.Clip())
	c.later(pending{reply: replyGetrange, n: 1, a: start, b: end})
}

const maxOffset = 1 << 32 // no value is as long

func replyGetrange(c *conn, p *pending) {
	switch err := c.batch.Err(p.at); {
	case err == nil:
		part, size := c.batch.Bytes(p.at), c.batch.Meta(p.at).Size
		from, to := span(p.a, p.b, size)
		c.out.value(c.batch, p.at, part[:min(to-from, int64(len(part)))])
	case errors.Is(err, dramnode.ErrNotFound):
		c.out.bulk(nil)
	default:
		c.out.fault(faultOf(err))
	}
}

// span returns the bytes [from, to) that start and end, inclusive, stand for in a value of so many bytes;
// negative ones count from the end, and what lies before the first byte is the first, as in Redis.
func span(start, end, size int64) (from, to int64) {
	if start < 0 && end < 0 && start > end {
		return 0, 0
	}
	if start < 0 {
		start = max(size+max(start, -maxOffset), 0)
	}
	if end < 0 {
		end = max(size+max(end, -maxOffset), 0)
	}
	end = min(end, size-1)
	if start > end {
		return 0, 0
	}
	return start, end + 1
}

func setnx(c *conn, args [][]byte) {
	c.add(args[0], true).Put(args[0], args[1], client.IfAbsent())
	c.later(pending{reply: replySetnx, n: 1})
}

func replySetnx(c *conn, p *pending) {
	switch err := c.batch.Err(p.at); {
	case err == nil:
		c.out.integer(1)
	case errors.Is(err, dramnode.ErrGenerationMismatch):
		c.out.integer(0)
	default:
		c.out.fault(faultOf(err))
	}
}

func setex(c *conn, args [][]byte, u unit, name string) {
	life, fault := lifeOf(args[1], u, name)
	if fault != "" {
		c.reply().fault(fault)
		return
	}
	c.add(args[0], true).Put(args[0], args[2], client.TTL(life))
	c.later(pending{reply: replySet, n: 1})
}

func replySet(c *conn, p *pending) {
	switch err := c.batch.Err(p.at); {
	case err == nil:
		c.out.ok()
	case errors.Is(err, dramnode.ErrGenerationMismatch):
		c.out.null() // NX
	default:
		c.out.fault(faultOf(err))
	}
}

// setOptions are what follows the value of SET, and the key of GETEX.
type setOptions struct {
	nx, xx, get, keepTTL, persist bool
	expire                        []byte // nil: none
	unit                          unit
	ifEqual                       []byte
	hasIfEqual                    bool
}

// parseSet parses the options of SET, or those of GETEX; false is a syntax error.
func parseSet(args [][]byte, getex bool) (o setOptions, ok bool) {
	for i := 0; i < len(args); i++ {
		last := i == len(args)-1
		word := string(bytes.ToUpper(args[i][:min(len(args[i]), len("KEEPTTL")+1)]))
		if u, ok := lifeUnits[word]; ok {
			if last || o.keepTTL || o.persist || o.expire != nil && o.unit != u {
				return o, false
			}
			i++
			o.expire, o.unit = args[i], u
			continue
		}
		switch {
		case word == "NX" && !getex && !o.xx && !o.hasIfEqual:
			o.nx = true
		case word == "XX" && !getex && !o.nx && !o.hasIfEqual:
			o.xx = true
		case word == "IFEQ" && !getex && !o.nx && !o.xx && !last:
			i++
			o.ifEqual, o.hasIfEqual = args[i], true
		case word == "GET" && !getex:
			o.get = true
		case word == "KEEPTTL" && !getex && o.expire == nil:
			o.keepTTL = true
		case word == "PERSIST" && getex && o.expire == nil:
			o.persist = true
		default:
			return o, false
		}
	}
	return o, true
}

func set(c *conn, args [][]byte) {
	key, value := args[0], args[1]
	if len(args) == 2 {
		c.add(key, true).Put(key, value)
		c.later(pending{reply: replySet, n: 1})
		return
	}
	o, ok := parseSet(args[2:], false)
	if !ok {
		c.reply().fault(syntaxError)
		return
	}
	var opts [2]client.Option
	n := 0
	life, fault := time.Duration(0), ""
	if o.expire != nil {
		if life, fault = lifeOf(o.expire, o.unit, "set"); fault != "" {
			c.reply().fault(fault)
			return
		}
		opts[n], n = client.TTL(life), n+1
	}
	if o.xx || o.get || o.keepTTL || o.hasIfEqual || life < 0 {
		setStepwise(c, key, value, life, &o)
		return
	}
	if o.nx {
		opts[n], n = client.IfAbsent(), n+1
	}
	c.add(key, true).Put(key, value, opts[:n]...)
	c.later(pending{reply: replySet, n: 1})
}

// setStepwise is SET where what is written, or answered, depends on the value before.
func setStepwise(c *conn, key, value []byte, life time.Duration, o *setOptions) {
	written := false
	b := c.update(key, o.get || o.hasIfEqual, func(old *current) change {
		written = !(o.nx && old.exists || o.xx && !old.exists || o.hasIfEqual && !(old.exists && bytes.Equal(old.bytes, o.ifEqual)))
		switch {
		case !written:
			return change{}
		case life < 0: // set to a time that is over
			return change{kind: removes}
		case o.keepTTL:
			return change{puts, value, old.TTL}
		}
		return change{puts, value, life}
	})
	switch {
	case b == nil: // it has answered
	case o.get:
		c.replyValue(b, 0)
	case written:
		c.out.ok()
	default:
		c.out.null()
	}
}

func getset(c *conn, args [][]byte) {
	if b := c.update(args[0], true, func(*current) change { return change{puts, args[1], 0} }); b != nil {
		c.replyValue(b, 0)
	}
}

func getdel(c *conn, args [][]byte) {
	b := c.update(args[0], true, func(old *current) change {
		if !old.exists {
			return change{}
		}
		return change{kind: removes}
	})
	if b != nil {
		c.replyValue(b, 0)
	}
}

func getex(c *conn, args [][]byte) {
	o, ok := parseSet(args[1:], true)
	if !ok {
		c.reply().fault(syntaxError)
		return
	}
	if o.expire == nil && !o.persist {
		get(c, args[:1])
		return
	}
	fault := ""
	b := c.update(args[0], true, func(old *current) change {
		switch fault = ""; {
		case !old.exists, o.persist && old.TTL == 0:
			return change{}
		case o.persist:
			return change{kind: touches}
		}
		var life time.Duration
		if life, fault = lifeOf(o.expire, o.unit, "getex"); fault != "" {
			return change{}
		}
		if life < 0 {
			return change{kind: removes}
		}
		return change{kind: touches, life: life}
	})
	switch {
	case b == nil:
	case fault != "":
		c.out.fault(fault)
	default:
		c.replyValue(b, 0)
	}
}

func incrby(c *conn, args [][]byte) {
	by, ok := parseInt(args[1])
	if !ok {
		c.reply().fault(notInteger)
		return
	}
	increase(c, args[0], by)
}

func decrby(c *conn, args [][]byte) {
	by, ok := parseInt(args[1])
	switch {
	case !ok:
		c.reply().fault(notInteger)
	case by == -by && by != 0:
		c.reply().fault("ERR decrement would overflow")
	default:
		increase(c, args[0], -by)
	}
}

func increase(c *conn, key []byte, by int64) {
	var sum int64
	var digits [20]byte
	fault := ""
	b := c.update(key, true, func(old *current) change {
		before, ok := int64(0), true
		if old.exists {
			before, ok = parseInt(old.bytes)
		}
		fault = ""
		switch sum = before + by; {
		case !ok:
			fault = notInteger
		case by > 0 && sum < before, by < 0 && sum > before:
			fault = "ERR increment or decrement would overflow"
		default:
			return change{puts, strconv.AppendInt(digits[:0], sum, 10), old.TTL}
		}
		return change{}
	})
	switch {
	case b == nil:
	case fault != "":
		c.out.fault(fault)
	default:
		c.out.integer(sum)
	}
}

// appendTo rewrites the whole value: there is no cheaper way to a value with a checksum and a generation.
func appendTo(c *conn, args [][]byte) {
	length, fault := 0, ""
	b := c.update(args[0], true, func(old *current) change {
		length, fault = len(old.bytes)+len(args[1]), ""
		if length > int(c.server.store.Table().MaxValue) {
			fault = tooLong
			return change{}
		}
		return change{puts, append(append(make([]byte, 0, length), old.bytes...), args[1]...), old.TTL}
	})
	switch {
	case b == nil:
	case fault != "":
		c.out.fault(fault)
	default:
		c.out.integer(int64(length))
	}
}
