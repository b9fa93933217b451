package ring

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/cespare/xxhash/v2"

	"github.com/dramnode/dramnode"
)

// A Partition is a slice of the key space, counted from 0.
type Partition uint16

const (
	// DefaultPartitions is the number of hash partitions when Config.Partitions is 0.
	DefaultPartitions = 1031
	// MaxPartitions limits all partitions of a cluster together.
	MaxPartitions = 65535
	// MaxMembers limits how many members Targets takes: it costs their square, 0.1 s for 128.
	MaxMembers = 256
	// MaxNameBytes limits a member's name, here as in the handshake.
	MaxNameBytes = 128
)

// A Strategy is a way to cut the key space into partitions.
type Strategy uint8

const (
	Hash     Strategy = iota // by the key's hash
	Range                    // by sorted split points, so that neighbouring keys share a partition
	Explicit                 // by prefix rules that name a node; all other keys by hash
)

func (s Strategy) String() string {
	switch s {
	case Hash:
		return "hash"
	case Range:
		return "range"
	case Explicit:
		return "explicit"
	}
	return fmt.Sprintf("strategy(%d)", uint8(s))
}

// ParseStrategy is the inverse of String for the known strategies.
func ParseStrategy(text string) (Strategy, error) {
	for _, s := range []Strategy{Hash, Range, Explicit} {
		if text == s.String() {
			return s, nil
		}
	}
	return 0, fmt.Errorf("%w: strategy %q, want hash, range or explicit", dramnode.ErrInvalid, text)
}

// A Rule sends every key that starts with Prefix to the member named Node.
type Rule struct{ Prefix, Node string }

// Config is how a cluster cuts its key space. All members must have equal settings, for the life of
// the cluster; Digest tells. The zero Config is valid.
type Config struct {
	// Partitions is the number of hash partitions, 0 for DefaultPartitions. Range has no use for it.
	Partitions int
	Strategy   Strategy
	// Splits, for Range, strictly ascend. Partition i holds the keys from Splits[i-1] (inclusive) to
	// Splits[i] (exclusive), so there are len(Splits)+1.
	Splits [][]byte
	// Rules, for Explicit. The longest matching prefix wins, whatever the order. Rule i has its own
	// partition, Partitions+i.
	Rules []Rule
}

// canonical returns c with what its strategy does not use, or leaves to a default, spelled in one way.
func (c Config) canonical() Config {
	if c.Partitions == 0 {
		c.Partitions = DefaultPartitions
	}
	if c.Strategy == Range {
		c.Partitions = 0
	}
	return c
}

// Count is the number of partitions in total.
func (c Config) Count() int {
	c = c.canonical()
	switch c.Strategy {
	case Range:
		return len(c.Splits) + 1
	case Explicit:
		return c.Partitions + len(c.Rules)
	}
	return c.Partitions
}

// Validate reports all faults at once; each wraps dramnode.ErrInvalid and names what is wrong.
func (c Config) Validate() error {
	var faults faults
	if c.Strategy > Explicit {
		faults.add("unknown %v", c.Strategy)
	}
	if c.Partitions < 0 || c.Partitions > MaxPartitions {
		faults.add("partitions = %d, want 1 to %d", c.Partitions, MaxPartitions)
	} else if c.Count() > MaxPartitions {
		faults.add("%d partitions in total, want at most %d", c.Count(), MaxPartitions)
	}
	if len(c.Splits) > 0 && c.Strategy != Range {
		faults.add("%d split points are given, but the strategy is %v", len(c.Splits), c.Strategy)
	}
	if len(c.Rules) > 0 && c.Strategy != Explicit {
		faults.add("%d rules are given, but the strategy is %v", len(c.Rules), c.Strategy)
	}
	c.checkSplits(&faults)
	c.checkRules(&faults)
	return errors.Join(faults...)
}

func (c Config) checkSplits(faults *faults) {
	for i, split := range c.Splits {
		if err := dramnode.CheckKey(split); err != nil {
			*faults = append(*faults, fmt.Errorf("ring: split %d: %w", i, err))
		} else if i > 0 && bytes.Compare(c.Splits[i-1], split) >= 0 {
			faults.add("split %d, %.64q, does not come after split %d, %.64q", i, split, i-1, c.Splits[i-1])
		}
	}
}

func (c Config) checkRules(faults *faults) {
	first := make(map[string]int, len(c.Rules))
	for i, rule := range c.Rules {
		if n := len(rule.Prefix); n == 0 || n > dramnode.MaxKeyBytes {
			faults.add("rule %d: the prefix has %d bytes, want 1 to %d", i, n, dramnode.MaxKeyBytes)
		} else if j, dup := first[rule.Prefix]; dup {
			faults.add("rules %d and %d have the same prefix, %.64q", j, i, rule.Prefix)
		} else {
			first[rule.Prefix] = i
		}
		if n := len(rule.Node); n == 0 || n > MaxNameBytes {
			faults.add("rule %d (prefix %.64q): the node's name has %d bytes, want 1 to %d", i, rule.Prefix, n, MaxNameBytes)
		}
	}
}

// faults collects errors that wrap dramnode.ErrInvalid.
type faults []error

func (f *faults) add(format string, args ...any) {
	*f = append(*f, fmt.Errorf("ring: %w: %s", dramnode.ErrInvalid, fmt.Sprintf(format, args...)))
}

// Digest is equal for equal settings and, but for a hash collision, for no others. Members with
// another digest must be refused, since they would look for keys elsewhere.
func (c Config) Digest() uint64 { return xxhash.Sum64(c.Append(nil)) }
