package resp

import (
	"crypto/subtle"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// speaks is the version of Redis whose string commands and answers this package has. Clients look at it.
const speaks = "7.0.15"

func ping(c *conn, args [][]byte) {
	switch len(args) {
	case 0:
		c.reply().simple("PONG")
	case 1:
		c.reply().bulk(args[0])
	default:
		c.reply().fault(wrongArity("ping"))
	}
}

func quit(c *conn, _ [][]byte) {
	c.reply().ok()
	c.quit = true
}

func reset(c *conn, _ [][]byte) {
	w := c.reply()
	c.name, c.known = "", c.server.cfg.Password == ""
	c.setLimits()
	w.simple("RESET")
}

func selectDB(c *conn, args [][]byte) {
	switch v, ok := parseInt(args[0]); {
	case !ok:
		c.reply().fault(notInteger)
	case v != 0:
		c.reply().fault("ERR DB index is out of range")
	default:
		c.reply().ok()
	}
}

const (
	wrongPassword = "WRONGPASS invalid username-password pair or user is disabled."
	noPassword    = "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?"
	helloFirst    = "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time"
)

// auth is AUTH [user] password; the only user is "default".
func auth(c *conn, args [][]byte) {
	w := c.reply()
	switch {
	case len(args) > 2:
		w.fault(syntaxError)
	case len(args) == 1 && c.server.cfg.Password == "":
		w.fault(noPassword)
	case !c.login(args):
		w.fault(wrongPassword)
	default:
		w.ok()
	}
}

// login checks [user] password. Without a password the default user may give any.
func (c *conn) login(args [][]byte) bool {
	password := args[len(args)-1]
	want := c.server.cfg.Password
	right := want == "" || subtle.ConstantTimeCompare(password, []byte(want)) == 1
	if !right || len(args) == 2 && string(args[0]) != "default" {
		return false
	}
	c.known = true
	c.setLimits()
	return true
}

// hello is HELLO [version [AUTH user password] [SETNAME name]].
func hello(c *conn, args [][]byte) {
	w := c.reply()
	if len(args) > 0 {
		switch v, ok := parseInt(args[0]); {
		case !ok:
			w.fault("ERR Protocol version is not an integer or out of range")
			return
		case v != 2:
			w.fault("NOPROTO unsupported protocol version")
			return
		}
		args = args[1:]
	}
	var credentials, name [][]byte
	for len(args) > 0 {
		switch word := strings.ToUpper(string(args[0][:min(len(args[0]), maxCommandName)])); {
		case word == "AUTH" && len(args) >= 3:
			credentials, args = args[1:3], args[3:]
		case word == "SETNAME" && len(args) >= 2:
			name, args = args[1:2], args[2:]
		default:
			w.fault(fmt.Sprintf("ERR Syntax error in HELLO option '%s'", args[0][:min(len(args[0]), maxQuoted)]))
			return
		}
	}
	switch {
	case credentials != nil && !c.login(credentials):
		w.fault(wrongPassword)
	case !c.known:
		w.fault(helloFirst)
	case name != nil && !c.setName(name[0]):
		w.fault(badName)
	default:
		w.array(14)
		w.text("server")
		w.text("redis")
		w.text("version")
		w.text(speaks)
		w.text("proto")
		w.integer(2)
		w.text("id")
		w.integer(c.id)
		w.text("mode")
		w.text("standalone")
		w.text("role")
		w.text("master")
		w.text("modules")
		w.array(0)
	}
}

const badName = "ERR Client names cannot contain spaces, newlines or special characters."

func (c *conn) setName(name []byte) bool {
	for _, b := range name {
		if b < '!' || b > '~' {
			return false
		}
	}
	c.name = string(name[:min(len(name), maxNameBytes)])
	return true
}

func unknownSub(name string, sub []byte) string {
	return fmt.Sprintf("ERR unknown subcommand '%s'. Try %s HELP.", sub[:min(len(sub), maxQuoted)], strings.ToUpper(name))
}

func clientCommand(c *conn, args [][]byte) {
	w := c.reply()
	sub := strings.ToLower(string(args[0][:min(len(args[0]), maxCommandName)]))
	wants := map[string]int{"id": 1, "getname": 1, "setname": 2, "setinfo": 3, "info": 1, "list": 1, "no-evict": 2}
	switch n, ok := wants[sub]; {
	case !ok:
		w.fault(unknownSub("client", args[0]))
		return
	case n != len(args):
		w.fault(wrongArity("client|" + sub))
		return
	}
	switch sub {
	case "id":
		w.integer(c.id)
	case "getname":
		if c.name == "" {
			w.null()
		} else {
			w.text(c.name)
		}
	case "setname":
		if c.setName(args[1]) {
			w.ok()
		} else {
			w.fault(badName)
		}
	case "setinfo", "no-evict":
		w.ok()
	case "info", "list": // the list has only the one who asks
		w.text(fmt.Sprintf("id=%d addr=%s laddr=%s name=%s age=%d db=0 resp=2\n",
			c.id, c.nc.RemoteAddr(), c.nc.LocalAddr(), c.name, int(time.Since(c.since).Seconds())))
	}
}

// config answers what clients ask before they start; nothing can be changed.
func config(c *conn, args [][]byte) {
	w := c.reply()
	switch sub := strings.ToLower(string(args[0][:min(len(args[0]), maxCommandName)])); {
	case sub == "get" && len(args) > 1:
		settings := [][2]string{
			{"appendonly", "no"}, {"databases", "1"}, {"maxclients", strconv.Itoa(c.server.cfg.MaxConns)},
			{"maxmemory", "0"}, {"maxmemory-policy", "noeviction"}, {"proto-max-bulk-len", strconv.Itoa(int(c.server.store.Table().MaxValue))},
			{"save", ""}, {"timeout", "0"},
		}
		var found []string
		for _, s := range settings {
			if slices.ContainsFunc(args[1:], func(a []byte) bool { return glob(strings.ToLower(string(a))).match([]byte(s[0])) }) {
				found = append(found, s[0], s[1])
			}
		}
		w.array(len(found))
		for _, text := range found {
			w.text(text)
		}
	case sub == "resetstat" && len(args) == 1:
		w.ok()
	case sub == "set" && len(args) > 2:
		w.fault(fmt.Sprintf("ERR CONFIG SET failed (possibly related to argument '%s') - can't set immutable config", args[1][:min(len(args[1]), maxQuoted)]))
	case sub == "get" || sub == "set" || sub == "resetstat":
		w.fault(wrongArity("config|" + sub))
	default:
		w.fault(unknownSub("config", args[0]))
	}
}

// describe is COMMAND.
func describe(c *conn, args [][]byte) {
	w, table := c.reply(), c.server.commands.all
	if len(args) == 0 {
		w.array(len(table))
		for i := range table {
			table[i].describe(w)
		}
		return
	}
	switch strings.ToLower(string(args[0][:min(len(args[0]), maxCommandName)])) {
	case "count":
		w.integer(int64(len(table)))
	case "info":
		w.array(len(args) - 1)
		for _, name := range args[1:] {
			if cmd := c.server.commands.lookup(name); cmd != nil {
				cmd.describe(w)
			} else {
				w.buf = append(w.buf, "*-1\r\n"...)
			}
		}
	case "list":
		w.array(len(table))
		for i := range table {
			w.text(table[i].name)
		}
	case "docs": // no words here: redis-cli then goes without hints
		w.array(0)
	default:
		w.fault(unknownSub("command", args[0]))
	}
}

func (cmd *command) describe(w *out) {
	w.array(10)
	w.text(cmd.name)
	w.integer(int64(cmd.arity))
	flags := strings.Fields(cmd.flags)
	w.array(len(flags))
	for _, f := range flags {
		w.simple(f)
	}
	w.integer(int64(cmd.first))
	w.integer(int64(cmd.last))
	w.integer(int64(cmd.step))
	for range 4 { // categories, tips, key specifications, sub-commands
		w.array(0)
	}
}

// info is INFO with any sections: all are short.
func info(c *conn, _ [][]byte) {
	w, s := c.reply(), c.server
	uptime := int(time.Since(s.started).Seconds())
	var t strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&t, format+"\r\n", args...) }
	line("# Server")
	line("redis_version:%s", speaks)
	line("dramnode_version:%s", s.cfg.Version)
	line("redis_mode:standalone")
	line("os:%s %s", runtime.GOOS, runtime.GOARCH)
	line("process_id:%d", os.Getpid())
	line("run_id:%s", s.runID)
	line("uptime_in_seconds:%d", uptime)
	line("uptime_in_days:%d", uptime/86400)
	line("\r\n# Clients")
	line("connected_clients:%d", s.connections())
	line("maxclients:%d", s.cfg.MaxConns)
	line("\r\n# Stats")
	line("total_connections_received:%d", s.accepted.Load())
	line("rejected_connections:%d", s.refused.Load())
	line("total_commands_processed:%d", s.executed.Load()+c.done)
	line("\r\n# Replication")
	line("role:master")
	line("connected_slaves:0")
	line("\r\n# Memory")
	entries, used, err := s.totals(c)
	if err != nil {
		line("dramnode_error:%v", err)
	} else {
		line("used_memory:%d", used)
		line("\r\n# Keyspace")
		if entries > 0 {
			line("db0:keys=%d,expires=0,avg_ttl=0", entries)
		}
	}
	w.text(t.String())
}
