package resp

import (
	"errors"
	"fmt"
	"strings"

	"github.com/dramnode/dramnode"
)

// A command is one that is served. arity counts its name; negative: at least so many. first, last and step say
// where its keys are, for clients that ask. run gets the arguments without the name.
type command struct {
	name              string
	arity             int
	first, last, step int
	flags             string // for COMMAND, separated by spaces
	run               func(c *conn, args [][]byte)
}

const maxCommandName = 16

// A commandSet finds commands by name.
type commandSet struct {
	all    []command
	byName map[string]*command // in capitals
}

func newCommandSet() commandSet {
	s := commandSet{all: table(), byName: map[string]*command{}}
	for i := range s.all {
		s.byName[strings.ToUpper(s.all[i].name)] = &s.all[i]
	}
	return s
}

func table() []command {
	return []command{
		{"get", 2, 1, 1, 1, "readonly fast", get},
		{"set", -3, 1, 1, 1, "write denyoom", set},
		{"setnx", 3, 1, 1, 1, "write denyoom fast", setnx},
		{"setex", 4, 1, 1, 1, "write denyoom", func(c *conn, args [][]byte) { setex(c, args, seconds, "setex") }},
		{"psetex", 4, 1, 1, 1, "write denyoom", func(c *conn, args [][]byte) { setex(c, args, milliseconds, "psetex") }},
		{"getset", 3, 1, 1, 1, "write denyoom fast", getset},
		{"mget", -2, 1, -1, 1, "readonly fast", mget},
		{"mset", -3, 1, -1, 2, "write denyoom", mset},
		{"del", -2, 1, -1, 1, "write", del},
		{"unlink", -2, 1, -1, 1, "write fast", del},
		{"exists", -2, 1, -1, 1, "readonly fast", exists},
		{"strlen", 2, 1, 1, 1, "readonly fast", strlen},
		{"getrange", 4, 1, 1, 1, "readonly", getrange},
		{"substr", 4, 1, 1, 1, "readonly", getrange},
		{"incr", 2, 1, 1, 1, "write denyoom fast", func(c *conn, args [][]byte) { increase(c, args[0], 1) }},
		{"decr", 2, 1, 1, 1, "write denyoom fast", func(c *conn, args [][]byte) { increase(c, args[0], -1) }},
		{"incrby", 3, 1, 1, 1, "write denyoom fast", incrby},
		{"decrby", 3, 1, 1, 1, "write denyoom fast", decrby},
		{"append", 3, 1, 1, 1, "write denyoom fast", appendTo},
		{"getdel", 2, 1, 1, 1, "write fast", getdel},
		{"getex", -2, 1, 1, 1, "write fast", getex},
		{"ttl", 2, 1, 1, 1, "readonly fast", func(c *conn, args [][]byte) { ttl(c, args[0], replyTTL) }},
		{"pttl", 2, 1, 1, 1, "readonly fast", func(c *conn, args [][]byte) { ttl(c, args[0], replyPTTL) }},
		{"expire", -3, 1, 1, 1, "write fast", func(c *conn, args [][]byte) { expire(c, args, seconds, "expire") }},
		{"pexpire", -3, 1, 1, 1, "write fast", func(c *conn, args [][]byte) { expire(c, args, milliseconds, "pexpire") }},
		{"expireat", -3, 1, 1, 1, "write fast", func(c *conn, args [][]byte) { expire(c, args, seconds|absolute, "expireat") }},
		{"pexpireat", -3, 1, 1, 1, "write fast", func(c *conn, args [][]byte) { expire(c, args, milliseconds|absolute, "pexpireat") }},
		{"persist", 2, 1, 1, 1, "write fast", persist},
		{"type", 2, 1, 1, 1, "readonly fast", typeOf},
		{"scan", -2, 0, 0, 0, "readonly", scan},
		{"keys", 2, 0, 0, 0, "readonly", keys},
		{"dbsize", 1, 0, 0, 0, "readonly fast", dbsize},
		{"ping", -1, 0, 0, 0, "fast", ping},
		{"echo", 2, 0, 0, 0, "fast", func(c *conn, args [][]byte) { c.reply().bulk(args[0]) }},
		{"auth", -2, 0, 0, 0, "noscript loading stale fast no_auth", auth},
		{"hello", -1, 0, 0, 0, "noscript loading stale fast no_auth", hello},
		{"select", 2, 0, 0, 0, "loading stale fast", selectDB},
		{"quit", -1, 0, 0, 0, "noscript loading stale fast no_auth", quit},
		{"reset", 1, 0, 0, 0, "noscript loading stale fast no_auth", reset},
		{"info", -1, 0, 0, 0, "loading stale", info},
		{"command", -1, 0, 0, 0, "loading stale", describe},
		{"client", -2, 0, 0, 0, "noscript loading stale", clientCommand},
		{"config", -2, 0, 0, 0, "admin noscript loading stale", config},
	}
}

// dispatch runs the command that args are.
func (c *conn) dispatch(args [][]byte) {
	c.done++
	cmd := c.server.commands.lookup(args[0])
	switch {
	case cmd == nil:
		if crossProtocol(args[0]) {
			c.quit = true
			return
		}
		if !c.known {
			c.reply().fault(noAuth)
			return
		}
		c.reply().fault(unknown(args))
	case cmd.arity > 0 && len(args) != cmd.arity || len(args) < -cmd.arity:
		c.reply().fault(wrongArity(cmd.name))
	case !c.known && !strings.HasSuffix(cmd.flags, "no_auth"):
		c.reply().fault(noAuth)
	default:
		cmd.run(c, args[1:])
	}
}

func (s *commandSet) lookup(name []byte) *command {
	var upper [maxCommandName]byte
	if len(name) > len(upper) {
		return nil
	}
	for i, b := range name {
		if 'a' <= b && b <= 'z' {
			b -= 'a' - 'A'
		}
		upper[i] = b
	}
	return s.byName[string(upper[:len(name)])]
}

// crossProtocol tells the first words of a web browser, which somebody's page may make talk to us.
func crossProtocol(name []byte) bool {
	return strings.EqualFold(string(name), "post") || strings.EqualFold(string(name), "host:")
}

const (
	noAuth      = "NOAUTH Authentication required."
	syntaxError = "ERR syntax error"
	notInteger  = "ERR value is not an integer or out of range"
	tooLong     = "ERR string exceeds maximum allowed size (proto-max-bulk-len)"
)

const maxQuoted = 128 // bytes of a client's own words in an error

func unknown(args [][]byte) string {
	var list strings.Builder
	for _, a := range args[1:] {
		left := maxQuoted - list.Len()
		if left <= 0 {
			break
		}
		fmt.Fprintf(&list, "'%s' ", a[:min(len(a), left)])
	}
	return fmt.Sprintf("ERR unknown command '%s', with args beginning with: %s", args[0][:min(len(args[0]), maxQuoted)], list.String())
}

func wrongArity(name string) string {
	return "ERR wrong number of arguments for '" + name + "' command"
}

// faultOf says err to a client. The code tells what became of the command: after CLUSTERDOWN, TRYAGAIN and OOM
// nothing has changed and the command may be sent again; after "outcome unknown" a write may have happened.
func faultOf(err error) string {
	code := "ERR "
	switch {
	case errors.Is(err, dramnode.ErrUnknownOutcome):
	case errors.Is(err, dramnode.ErrTooLarge):
		return tooLong
	case errors.Is(err, dramnode.ErrNoMemory):
		code = "OOM command not allowed: "
	case errors.Is(err, dramnode.ErrUnavailable), errors.Is(err, dramnode.ErrNoQuorum), errors.Is(err, dramnode.ErrPartitionLost):
		code = "CLUSTERDOWN "
	case errors.Is(err, dramnode.ErrBusy):
		code = "TRYAGAIN "
	}
	return code + err.Error()
}
