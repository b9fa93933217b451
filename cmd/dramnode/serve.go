package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/config"
	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/control/state"
	"github.com/dramnode/dramnode/gateway"
	"github.com/dramnode/dramnode/node"
	"github.com/dramnode/dramnode/ring"
	"github.com/dramnode/dramnode/storage"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/ucxnet"
)

func (a *app) serveCommand(flags *pflag.FlagSet) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a node",
		Long: `Run a node until SIGTERM or SIGINT, which make it hand its partitions to the others and leave; a
second signal ends it at once. Without flags it is a cluster of one on loopback.`,
		Example: `  dramnode serve
  dramnode serve --listen 127.0.0.1:12445 --join 127.0.0.1:12346
  dramnode serve --listen 10.0.0.2:12345 --join 10.0.0.1 --cluster-key-file /etc/dramnode.key --memory 16GiB`,
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.nodeConfig()
			if err != nil {
				return err
			}
			faces, err := a.serve.faces()
			if err != nil {
				return err
			}
			if len(faces) == 0 {
				limitProcs(1)
			}
			_ = calmMonitor() // without, it is slower, and works
			return explainListen(serve(cmd.Context(), c.Log, func(ctx context.Context) error { return live(ctx, c, faces) }))
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().AddFlagSet(flags)
	return cmd
}

// gcPercent is the collector's GOGC for a node, unless the environment sets one. The Go heap does not grow with the entries, so a
// collection is cheap, and what lies about between two of them counts beside --memory.
const gcPercent = 50

// live is one node from its start until it has left.
func live(ctx context.Context, c node.Config, faces []face) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	open, err := listen(faces, c.Log)
	if err != nil {
		return err
	}
	var n *node.Node
	if len(open) > 0 {
		c.Faces = func(ctx context.Context, network transport.Network) error {
			return gateway.Run(ctx, client.Config{Network: network, Addrs: []string{n.Addr()}}, open)
		}
	}
	if n, err = node.New(c); err != nil {
		closeAll(open)
		return err
	}
	c.Log.Info().Str("name", c.Name).Str("listen", n.Addr()).Str("gossip", c.Gossip).Str("http", n.HTTPAddr()).
		Strs("join", c.Join).Str("memory", config.Bytes(c.MemoryBytes).String()).Str("version", version).Msg("node starts")
	defer context.AfterFunc(ctx, func() {
		c.Log.Info().Stringer("limit", c.DrainTimeout).Msg("asked to end: node leaves; another signal ends it at once")
	})()
	if err := n.Run(ctx); err != nil {
		return err
	}
	c.Log.Info().Msg("node has left")
	return nil
}

// againAfter is the pause before a node that was declared lost joins anew.
const againAfter = time.Second

// serve calls life, which is one node from its start to its end, again whenever the cluster declared the
// node lost: then its partitions are others', and a new incarnation joins in its place.
func serve(ctx context.Context, log zerolog.Logger, life func(context.Context) error) error {
	for {
		err := life(ctx)
		if !errors.Is(err, control.ErrRetired) {
			return err
		}
		log.Warn().Err(err).Msg("the cluster declared this node lost; joining again as a new incarnation")
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(againAfter):
		}
	}
}

// explainListen says what an address in use most likely means.
func explainListen(err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%w (another dramnode?)", err)
	}
	return err
}

// nodeConfig is what the settings mean for a node. All faults are reported at once.
func (a *app) nodeConfig() (node.Config, error) {
	s := a.serve
	key, err := config.ReadKey(a.keyFile)
	faults := []error{err, s.checkAddresses(len(key) > 0), s.checkNames()}
	if a.clusterName == "" {
		faults = append(faults, errNoClusterName)
	}
	shm, err := ucxnet.ParseShmMode(a.shm)
	faults = append(faults, err)
	cut, err := s.cut()
	faults = append(faults, err)
	eviction, err := storage.ParseEviction(s.eviction)
	if err != nil {
		faults = append(faults, fmt.Errorf("--eviction: %w", err))
	}
	mode, err := state.ParseMode(s.mode)
	if err != nil {
		faults = append(faults, fmt.Errorf("--mode: %w", err))
	}
	onLoss, err := state.ParseOnLoss(s.onLoss)
	if err != nil {
		faults = append(faults, fmt.Errorf("--on-loss: %w", err))
	}
	log, err := s.logger(a.stderr, terminal(a.stderr))
	faults = append(faults, err, s.checkFaces())
	advertise := or(s.advertise, s.listen)
	c := node.Config{
		Name:            or(s.name, advertise),
		Listen:          s.listen,
		Advertise:       advertise,
		Gossip:          s.gossipAddr(),
		GossipAdvertise: s.gossipAdvertise(),
		HTTP:            s.httpAddr(),
		Zone:            s.zone,
		ClusterName:     a.clusterName,
		Version:         version,
		Join:            s.seeds(),
		ClusterKey:      key,
		MemoryBytes:     int64(s.memory),
		MaxValueBytes:   int(s.maxValue),
		Eviction:        eviction,
		Settings:        cut,
		Verify:          true,
		Direct:          a.direct,
		Mode:            mode,
		Replicas:        s.replicas,
		MinSync:         s.minSync,
		Lease:           s.lease,
		OnLoss:          onLoss,
		LostAfter:       s.lostAfter,
		Boot:            ucxnet.BootTime,
		DrainTimeout:    s.drainTimeout,
		Log:             log,
	}
	c.Open = func(id transport.Identity, h transport.Handler, ev transport.Events) (transport.Network, error) {
		n, err := ucxnet.New(ucxnet.Config{
			Identity: id, Listen: c.Listen, Advertise: c.Advertise, Handler: h, Events: ev, Shm: shm, Build: version, Log: log,
			Limits: ucxnet.Limits{MaxBodyBytes: c.MaxValueBytes + bodySlack},
		})
		if err != nil {
			return nil, err // not a nil *ucxnet.Network, which is no nil transport.Network
		}
		return n, nil
	}
	if err := errors.Join(faults...); err != nil {
		return c, err
	}
	return c, c.Validate()
}

// bodySlack is how much longer than a value the body of a frame may be.
const bodySlack = 1 << 20

// or is text, or fallback when there is none.
func or(text, fallback string) string {
	if text == "" {
		return fallback
	}
	return text
}

func (s *serveSettings) gossipAddr() string { return or(s.gossip, config.Beside(s.listen, gossipStep)) }
func (s *serveSettings) httpAddr() string   { return or(s.http, config.Beside(s.listen, httpStep)) }

// gossipAdvertise is the host that others dial with the port that gossip listens on, "" when nothing
// but the listen address is known.
func (s *serveSettings) gossipAdvertise() string {
	host, _, err := net.SplitHostPort(s.advertise)
	_, port, gossipErr := net.SplitHostPort(s.gossipAddr())
	if err != nil || gossipErr != nil {
		return ""
	}
	return net.JoinHostPort(host, port)
}

func (s *serveSettings) seeds() []string {
	seeds := make([]string, len(s.join))
	for i, addr := range s.join {
		seeds[i] = config.WithPort(addr, defaultGossipPort)
	}
	return seeds
}

// checkNames reports what would be shown in tables and logs as something else, and sizes of 0, which to package
// node mean its defaults.
func (s *serveSettings) checkNames() error {
	var faults []error
	for _, n := range []struct{ flag, text string }{{"name", s.name}, {"zone", s.zone}} {
		if !printable(n.text) || len(n.text) > ring.MaxNameBytes {
			faults = append(faults, fmt.Errorf("%w: --%s %.40q: want at most %d bytes of printable text", dramnode.ErrInvalid, n.flag, n.text, ring.MaxNameBytes))
		}
	}
	for _, n := range []struct {
		flag  string
		value int64
	}{{"memory", int64(s.memory)}, {"max-value", int64(s.maxValue)}, {"drain-timeout", int64(s.drainTimeout)},
		{"replicas", int64(s.replicas)}, {"min-sync", int64(s.minSync)}, {"lease", int64(s.lease)},
		{"lost-after", int64(s.lostAfter)}} {
		if n.value == 0 {
			faults = append(faults, fmt.Errorf("%w: --%s 0, want more", dramnode.ErrInvalid, n.flag))
		}
	}
	return errors.Join(faults...)
}

// checkAddresses reports every address that cannot be, and listening where anybody could join.
func (s *serveSettings) checkAddresses(haveKey bool) error {
	faults := []error{config.CheckListen("listen", s.listen)}
	for _, a := range []struct{ flag, addr string }{{"gossip", s.gossipAddr()}, {"http", s.httpAddr()}} {
		if a.addr == "" && faults[0] == nil {
			faults = append(faults, fmt.Errorf("%w: --listen %s leaves no port for %s: give --%s", dramnode.ErrInvalid, s.listen, a.flag, a.flag))
		} else if a.addr != "" {
			faults = append(faults, config.CheckListen(a.flag, a.addr))
		}
	}
	if s.advertise != "" {
		faults = append(faults, config.CheckDial("advertise", s.advertise))
	} else if config.Unspecified(s.listen) {
		faults = append(faults, fmt.Errorf("%w: --listen %s is every address of this machine: --advertise must say which one others dial", dramnode.ErrInvalid, s.listen))
	}
	for _, seed := range s.seeds() {
		faults = append(faults, config.CheckDial("join", seed))
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	if haveKey || s.insecure || config.Loopback(s.listen) && config.Loopback(s.gossipAddr()) {
		return nil
	}
	return fmt.Errorf("%w: listening on %s (gossip %s) beyond loopback without a cluster key lets anybody in: give --cluster-key-file, or --insecure",
		dramnode.ErrInvalid, s.listen, s.gossipAddr())
}

// cut is how the key space is cut into partitions.
func (s *serveSettings) cut() (ring.Config, error) {
	strategy, err := ring.ParseStrategy(s.routing)
	faults := []error{err}
	cut := ring.Config{Strategy: strategy, Partitions: s.partitions}
	if s.partitions < 1 {
		faults = append(faults, fmt.Errorf("%w: --partitions %d, want 1 to %d", dramnode.ErrInvalid, s.partitions, ring.MaxPartitions))
	}
	for _, split := range s.splits {
		cut.Splits = append(cut.Splits, []byte(split))
	}
	for _, rule := range s.rules {
		at := strings.LastIndexByte(rule, '=') // a prefix may hold =, a name should not
		if at < 0 {
			faults = append(faults, fmt.Errorf("%w: --rule %q, want PREFIX=NODE", dramnode.ErrInvalid, rule))
			continue
		}
		cut.Rules = append(cut.Rules, ring.Rule{Prefix: rule[:at], Node: rule[at+1:]})
	}
	if err := errors.Join(faults...); err != nil {
		return cut, err
	}
	return cut, cut.Validate()
}

func (s *serveSettings) logger(w io.Writer, onTerminal bool) (zerolog.Logger, error) {
	level, err := zerolog.ParseLevel(s.logLevel)
	if err != nil || level < zerolog.DebugLevel || level > zerolog.ErrorLevel {
		return zerolog.Nop(), fmt.Errorf("%w: --log-level %q, want debug, info, warn or error", dramnode.ErrInvalid, s.logLevel)
	}
	switch {
	case s.logFormat == "console", s.logFormat == "" && onTerminal:
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: time.TimeOnly + ".000", NoColor: !onTerminal}
	case s.logFormat != "" && s.logFormat != "json":
		return zerolog.Nop(), fmt.Errorf("%w: --log-format %q, want console or json", dramnode.ErrInvalid, s.logFormat)
	}
	return zerolog.New(w).Level(level).With().Timestamp().Logger(), nil
}

// derived are the effective settings, with those filled in that follow from others.
func (a *app) derived() []config.Setting {
	settings := make([]config.Setting, len(a.effective))
	copy(settings, a.effective)
	from := map[string][2]string{
		"gossip":     {a.serve.gossipAddr(), "--listen + " + strconv.Itoa(gossipStep)},
		"http":       {a.serve.httpAddr(), "--listen + " + strconv.Itoa(httpStep)},
		"advertise":  {a.serve.listen, "--listen"},
		"name":       {or(a.serve.advertise, a.serve.listen), "--advertise"},
		"log-format": {map[bool]string{true: "console", false: "json"}[terminal(a.stderr)], "terminal or not"},
	}
	for i, s := range settings {
		if d, ok := from[s.Name]; ok && s.Value == "" {
			settings[i].Value, settings[i].Source = d[0], "from "+d[1]
		}
	}
	return settings
}
