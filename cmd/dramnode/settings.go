package main

import (
	"fmt"
	"time"

	"github.com/spf13/pflag"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/config"
	"github.com/dramnode/dramnode/control/lease"
	"github.com/dramnode/dramnode/control/state"
	"github.com/dramnode/dramnode/ring"
	"github.com/dramnode/dramnode/storage"
)

// Default ports; a node's gossip and HTTP listen on the two after its UCX port.
const (
	defaultListen     = "127.0.0.1:12345"
	defaultGossipPort = 12346
	gossipStep        = 1
	httpStep          = 2
)

// settings are what every sub-command has: each is a flag, a DRAMNODE_ variable and a key of the file.
type settings struct {
	addrs       []string
	clusterName string
	keyFile     string
	timeout     time.Duration
	json        bool
	shm         string
	direct      bool
}

func (s *settings) flags() *pflag.FlagSet {
	f := pflag.NewFlagSet("global", pflag.ContinueOnError)
	f.SortFlags = false
	f.StringSliceVar(&s.addrs, "addr", []string{defaultListen}, "nodes to ask, `host:port,...`")
	f.StringVar(&s.clusterName, "cluster-name", "default", "name of the cluster; nodes of another one refuse us")
	f.StringVar(&s.keyFile, "cluster-key-file", "", "`file` with the secret that all nodes and clients of the cluster share")
	f.DurationVar(&s.timeout, "timeout", 10*time.Second, "limit for each operation")
	f.BoolVar(&s.json, "json", false, "print JSON, errors too")
	f.StringVar(&s.shm, "shm", "auto", "shared memory to processes of this host: auto (where it works), on (or not at all) or off")
	f.BoolVar(&s.direct, "direct", false, "values are read straight from the memory of nodes of this host and user; nodes and clients both need it")
	return f
}

// errNoClusterName: the default is for those who say nothing, not for a variable that is not set.
var errNoClusterName = fmt.Errorf("%w: --cluster-name is empty", dramnode.ErrInvalid)

// serveSettings are those of a node.
type serveSettings struct {
	name         string
	listen       string
	gossip       string
	http         string
	advertise    string
	join         []string
	zone         string
	memory       config.Bytes
	maxValue     config.Bytes
	eviction     string
	mode         string
	replicas     int
	minSync      int
	lease        time.Duration
	onLoss       string
	lostAfter    time.Duration
	partitions   int
	routing      string
	splits       []string
	rules        []string
	drainTimeout time.Duration
	insecure     bool
	logLevel     string
	logFormat    string
	faceSettings
}

func (s *serveSettings) flags() *pflag.FlagSet {
	f := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	f.SortFlags = false
	s.memory, s.maxValue = 1<<30, dramnode.DefaultMaxValueBytes
	f.StringVar(&s.name, "name", "", "stable name of this node (default: the advertised address)")
	f.StringVar(&s.listen, "listen", defaultListen, "UCX `IP:port`")
	f.StringVar(&s.gossip, "gossip", "", "gossip `IP:port` (default: the listen port + 1)")
	f.StringVar(&s.http, "http", "", "health, readiness and info `IP:port` (default: the listen port + 2)")
	f.StringVar(&s.advertise, "advertise", "", "`host:port` that others dial (default: --listen; needed with 0.0.0.0)")
	f.StringSliceVar(&s.join, "join", nil, "gossip addresses of other nodes, `host[:port],...` (port 12346)")
	f.StringVar(&s.zone, "zone", "", "rack or failure zone of this node")
	f.Var(&s.memory, "memory", "limit for keys, values, their index and values in transit, such as 512MiB, 2GB or 16g")
	f.Var(&s.maxValue, "max-value", "longest value")
	f.StringVar(&s.eviction, "eviction", storage.EvictNone.String(), "when memory is full: none refuses writes, s3fifo drops entries that are read least")
	f.StringVar(&s.mode, "mode", state.Strong.String(), "strong, or cache: one copy, which is given up at once and without a word when its node is gone; equal on all nodes, as the next five")
	f.IntVar(&s.replicas, "replicas", 1, "copies of each partition, 1 to 5")
	f.IntVar(&s.minSync, "min-sync", 1, "copies without which writes are refused")
	f.DurationVar(&s.lease, "lease", lease.DefaultTiming().Length, "how long a node serves without hearing from the others")
	f.StringVar(&s.onLoss, "on-loss", state.Recreate.String(), "a partition that has lost all copies starts again empty (recreate) or waits for you (refuse)")
	f.DurationVar(&s.lostAfter, "lost-after", state.DefaultParams().LostAfter, "how long a partition waits for its last copies before they count as lost; not in a cache")
	f.IntVar(&s.partitions, "partitions", ring.DefaultPartitions, "hash partitions; equal on all nodes, fixed for a cluster's life")
	f.StringVar(&s.routing, "routing", ring.Hash.String(), "how keys find partitions: hash, range or explicit")
	f.StringSliceVar(&s.splits, "split", nil, "with --routing range: first `key` of each partition but the first, ascending")
	f.StringSliceVar(&s.rules, "rule", nil, "with --routing explicit: `PREFIX=NODE`, node that holds the keys with this prefix")
	f.DurationVar(&s.drainTimeout, "drain-timeout", time.Minute, "limit for handing partitions over at SIGTERM")
	f.BoolVar(&s.insecure, "insecure", false, "allow listening beyond loopback without a cluster key")
	f.StringVar(&s.logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&s.logFormat, "log-format", "", "console or json (default: console on a terminal)")
	s.faceFlags(f)
	return f
}
