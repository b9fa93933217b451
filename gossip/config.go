package gossip

import (
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/rs/zerolog"

	"github.com/dramnode/dramnode"
)

// Limits on what peers can make us keep or do.
const (
	maxMembers    = 1024 // known nodes, dead ones included
	maxRemembered = 128  // addresses to try again, seeds not counted
	maxRefusals   = 64
	maxSeeds      = 256
	joinsAtOnce   = 8

	// maxProbeStretch is how far memberlist lengthens its probes while this node itself seems slow. The
	// end of Run may have to wait for one such probe.
	maxProbeStretch = 4
)

// Config is how a node gossips.
type Config struct {
	Meta      Meta
	Bind      string   // host:port to listen on, TCP and UDP; port 0 takes a free one
	Advertise string   // host:port that others dial; "" for Bind, which then must not be 0.0.0.0 or ::
	Seeds     []string // host:port of nodes to join; this node itself may be among them
	Cluster   string   // clusters of another name never merge with ours

	// Key, unless nil, encrypts and authenticates all gossip (AES-256-GCM). It is the cluster key, of any
	// length: what is used is 32 bytes derived from it by HKDF-SHA256, so that gossip and the UCX
	// handshake never use one key for two purposes.
	Key []byte

	Log     zerolog.Logger
	Profile Timing

	// RejoinEvery is about how often seeds and nodes seen before, but not alive now, are dialled again:
	// default 5 s, five times as often while alone.
	RejoinEvery time.Duration

	// OnChange, unless nil, is called after Members or Conflicts changed; one call may stand for several
	// changes. It runs on a goroutine of Run, one call at a time, and Run waits for it to return.
	OnChange func()
}

// Timing are memberlist's knobs; zero fields mean the defaults. A crash is seen after about
// SuspicionMult * max(1, log10 N) * ProbeInterval plus one probe: 2.5 s for five nodes by default.
type Timing struct {
	ProbeInterval    time.Duration // default 500 ms
	ProbeTimeout     time.Duration // default 250 ms
	GossipInterval   time.Duration // default 200 ms
	PushPullInterval time.Duration // between full exchanges with a random node, default 2 s: they bring what gossip missed
	StreamTimeout    time.Duration // for a dial and for an exchange, default 2 s
	SuspicionMult    int           // default 3
	RetransmitMult   int           // default 4
}

func (t Timing) withDefaults() Timing {
	set(&t.ProbeInterval, 500*time.Millisecond)
	set(&t.ProbeTimeout, 250*time.Millisecond)
	set(&t.GossipInterval, 200*time.Millisecond)
	set(&t.PushPullInterval, 2*time.Second)
	set(&t.StreamTimeout, 2*time.Second)
	set(&t.SuspicionMult, 3)
	set(&t.RetransmitMult, 4)
	return t
}

func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (c Config) withDefaults() Config {
	c.Profile = c.Profile.withDefaults()
	set(&c.RejoinEvery, 5*time.Second)
	return c
}

// Validate reports all faults at once; each wraps dramnode.ErrInvalid.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	fault := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("gossip: %w: %s", dramnode.ErrInvalid, fmt.Sprintf(format, args...)))
	}
	if _, err := c.Meta.Append(nil); err != nil {
		errs = append(errs, err)
	}
	if host, err := checkAddr(c.Bind); err != nil {
		fault("bind address %q: %v", c.Bind, err)
	} else if ip := net.ParseIP(host); c.Advertise == "" && (host == "" || ip != nil && ip.IsUnspecified()) {
		fault("bind address %q needs an address to advertise", c.Bind)
	}
	if host, err := checkAddr(c.Advertise); c.Advertise != "" && (err != nil || host == "") {
		fault("advertised address %q: want host:port", c.Advertise)
	}
	if len(c.Seeds) > maxSeeds {
		fault("%d seeds, want at most %d", len(c.Seeds), maxSeeds)
	}
	for _, seed := range c.Seeds {
		if host, err := checkAddr(seed); err != nil || host == "" {
			fault("seed %q: want host:port", seed)
		}
	}
	if n := len(c.Cluster); n == 0 || n > memberlist.LabelMaxSize {
		fault("the cluster's name has %d bytes, want 1 to %d", n, memberlist.LabelMaxSize)
	}
	if c.Key != nil && len(c.Key) == 0 {
		fault("the cluster key is empty")
	}
	p := c.Profile
	if min(p.ProbeInterval, p.ProbeTimeout, p.GossipInterval, p.PushPullInterval, p.StreamTimeout, c.RejoinEvery) < 0 ||
		min(p.SuspicionMult, p.RetransmitMult) < 0 {
		fault("negative timing in %+v, RejoinEvery %v", p, c.RejoinEvery)
	}
	if p.ProbeTimeout > p.ProbeInterval {
		fault("probe timeout %v is longer than the interval, %v", p.ProbeTimeout, p.ProbeInterval)
	}
	return errors.Join(errs...)
}

// checkAddr returns the host of addr, which must have a numeric port.
func checkAddr(addr string) (host string, err error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "", fmt.Errorf("port %q is not a number up to 65535", port)
	}
	return host, nil
}

// memberlist returns the settings for memberlist on t with the hooks of h.
func (c Config) memberlist(t *transport, h hooks) (*memberlist.Config, error) {
	conf := memberlist.DefaultLANConfig()
	conf.Name = c.Meta.key()
	conf.Transport = t
	conf.Label = c.Cluster
	conf.ProbeInterval = c.Profile.ProbeInterval
	conf.ProbeTimeout = c.Profile.ProbeTimeout
	conf.GossipInterval = c.Profile.GossipInterval
	conf.PushPullInterval = c.Profile.PushPullInterval
	conf.TCPTimeout = c.Profile.StreamTimeout
	conf.SuspicionMult = c.Profile.SuspicionMult
	conf.RetransmitMult = c.Profile.RetransmitMult
	conf.AwarenessMaxMultiplier = maxProbeStretch
	conf.Logger = newLogger(c.Log)
	conf.Delegate, conf.Events, conf.Alive, conf.Merge = h, h, h, h
	if c.Key != nil {
		key, err := hkdf.Key(sha256.New, c.Key, nil, "dramnode gossip", 32)
		if err != nil {
			return nil, fmt.Errorf("gossip: derive the key: %w", err)
		}
		conf.Keyring, err = memberlist.NewKeyring(nil, key)
		if err != nil {
			return nil, fmt.Errorf("gossip: %w", err)
		}
	}
	return conf, nil
}
