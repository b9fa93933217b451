package resp

import (
	"errors"
	"math"
	"strings"
	"time"

	"github.com/dramnode/dramnode"
)

// A unit is how a number stands for a time: in seconds or milliseconds, from now on or since 1970.
type unit uint8

const (
	seconds      unit = 0
	milliseconds unit = 1
	absolute     unit = 2
)

var lifeUnits = map[string]unit{"EX": seconds, "PX": milliseconds, "EXAT": seconds | absolute, "PXAT": milliseconds | absolute}

// lifeOf parses a time of life of SET and GETEX, which is positive. A time that is over becomes -1. fault is the
// answer when the number will not do.
func lifeOf(text []byte, u unit, name string) (life time.Duration, fault string) {
	v, ok := parseInt(text)
	if !ok {
		return 0, notInteger
	}
	now := time.Now().UnixMilli()
	at, ok := instant(v, u, now)
	if v <= 0 || !ok {
		return 0, badExpire(name)
	}
	if at <= now {
		return -1, ""
	}
	return lasting(at - now), ""
}

func badExpire(name string) string { return "ERR invalid expire time in '" + name + "' command" }

// instant returns the time in milliseconds since 1970, or false when it is beyond all times.
func instant(v int64, u unit, now int64) (int64, bool) {
	if u&milliseconds == 0 {
		if v > math.MaxInt64/1000 || v < math.MinInt64/1000 {
			return 0, false
		}
		v *= 1000
	}
	if u&absolute != 0 {
		return v, true
	}
	return v + now, v <= math.MaxInt64-now
}

// lasting is a positive life. One of more than 292 years, which no Duration can hold, is as good as that.
func lasting(millis int64) time.Duration {
	return time.Duration(min(millis, math.MaxInt64/int64(time.Millisecond))) * time.Millisecond
}

// expireWhen are the options of EXPIRE and its like.
type expireWhen struct{ nx, xx, gt, lt bool }

func parseWhen(args [][]byte) (w expireWhen, fault string) {
	for _, a := range args {
		switch strings.ToUpper(string(a[:min(len(a), maxQuoted)])) {
		case "NX":
			w.nx = true
		case "XX":
			w.xx = true
		case "GT":
			w.gt = true
		case "LT":
			w.lt = true
		default:
			return w, "ERR Unsupported option " + string(a[:min(len(a), maxQuoted)])
		}
	}
	switch {
	case w.nx && (w.xx || w.gt || w.lt):
		return w, "ERR NX and XX, GT or LT options at the same time are not compatible"
	case w.gt && w.lt:
		return w, "ERR GT and LT options at the same time are not compatible"
	}
	return w, ""
}

// allow reports whether a key that lives until before, 0 for ever, may live until at.
func (w expireWhen) allow(before, at int64) bool {
	switch {
	case w.nx && before != 0, w.xx && before == 0:
		return false
	case w.gt && (before == 0 || at <= before):
		return false
	case w.lt && before != 0 && at >= before:
		return false
	}
	return true
}

func expire(c *conn, args [][]byte, u unit, name string) {
	when, fault := parseWhen(args[2:])
	v, ok := parseInt(args[1])
	now := time.Now().UnixMilli()
	at, inTime := instant(v, u, now)
	switch {
	case fault != "":
	case !ok:
		fault = notInteger
	case !inTime:
		fault = badExpire(name)
	}
	key := args[0]
	switch {
	case fault != "":
		c.reply().fault(fault)
	case when != expireWhen{}:
		expireIf(c, key, when, at)
	case at <= now:
		c.add(key, true).Remove(key)
		c.later(pending{reply: replyDeleted, n: 1})
	default:
		c.add(key, true).Touch(key, lasting(at-now))
		c.later(pending{reply: replyTouched, n: 1})
	}
}

func replyTouched(c *conn, p *pending) {
	switch err := c.batch.Err(p.at); {
	case err == nil:
		c.out.integer(1)
	case errors.Is(err, dramnode.ErrNotFound):
		c.out.integer(0)
	default:
		c.out.fault(faultOf(err))
	}
}

func expireIf(c *conn, key []byte, when expireWhen, at int64) {
	done := int64(0)
	b := c.update(key, false, func(old *current) change {
		now := time.Now().UnixMilli()
		before := int64(0)
		if old.TTL > 0 {
			before = now + old.TTL.Milliseconds()
		}
		if done = 0; !old.exists || !when.allow(before, at) {
			return change{}
		}
		if done = 1; at <= now {
			return change{kind: removes}
		}
		return change{kind: touches, life: lasting(at - now)}
	})
	if b != nil {
		c.out.integer(done)
	}
}

func persist(c *conn, args [][]byte) {
	done := int64(0)
	b := c.update(args[0], false, func(old *current) change {
		if done = 0; old.TTL == 0 {
			return change{}
		}
		done = 1
		return change{kind: touches}
	})
	if b != nil {
		c.out.integer(done)
	}
}

func ttl(c *conn, key []byte, reply func(*conn, *pending)) {
	c.add(key, false).Stat(key)
	c.later(pending{reply: reply, n: 1})
}

func replyTTL(c *conn, p *pending)  { replyLife(c, p, 1000) }
func replyPTTL(c *conn, p *pending) { replyLife(c, p, 1) }

// replyLife answers with the time left, rounded to a unit of so many milliseconds.
func replyLife(c *conn, p *pending, unitMillis int64) {
	switch err := c.batch.Err(p.at); {
	case errors.Is(err, dramnode.ErrNotFound):
		c.out.integer(-2)
	case err != nil:
		c.out.fault(faultOf(err))
	case c.batch.Meta(p.at).TTL == 0:
		c.out.integer(-1)
	default:
		c.out.integer((c.batch.Meta(p.at).TTL.Milliseconds() + unitMillis/2) / unitMillis)
	}
}
