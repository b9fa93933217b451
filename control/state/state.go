// Package state is the replicated state of the control plane: nodes, rows, epochs, and the commands
// that change them.
//
// A State is a value: Apply returns the next one and never changes the old, so readers share pointers.
// Apply is a pure, deterministic function, the same at every replica of the log. It guards what must
// never happen (a row outside its activated set, an old proposal winning); what should happen next is
// decided by package leader. Nothing here knows time, randomness or the network.
package state

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/ring"
)

// An Incarnation is the random id of one process life; 0 is nobody. A restarted process is another one.
// It is the node's id in the consensus group too.
type Incarnation uint64

// reserved are ids that the consensus library keeps for itself.
const reserved = math.MaxUint64 - 1

// Valid reports whether a process may have this id.
func (i Incarnation) Valid() bool { return i != 0 && i < reserved }

// An Epoch numbers the configurations of one row. The top bit stays clear: generations are int64 in
// some clients.
type Epoch uint32

// maxEpoch bounds epochs that follow a clock, so that one that is far ahead does not use them up.
const maxEpoch = math.MaxInt32

// Next is the epoch after e: it grows even over a full restart of the cluster, when e starts from 0.
func (e Epoch) Next(unixSeconds uint32) Epoch {
	return max(e+1, Epoch(min(unixSeconds, maxEpoch-1<<24)))
}

// A Status says what a node may be given.
type Status uint8

const (
	Up        Status = 1 // holds leases
	Suspended Status = 2 // has no lease; may come back with its memory
	Leaving   Status = 3 // holds leases and gives its copies away
	Gone      Status = 4 // never gets a lease again
)

func (s Status) String() string {
	switch s {
	case Up:
		return "up"
	case Suspended:
		return "suspended"
	case Leaving:
		return "leaving"
	case Gone:
		return "gone"
	}
	return fmt.Sprintf("status(%d)", uint8(s))
}

// A Node is one process.
type Node struct {
	Incarnation Incarnation
	Name        string // unique among the nodes that are not gone
	Addr        string // "host:port" that peers and clients dial
	Zone        string
	Witness     bool // votes, and holds no data
	Status      Status

	Joined uint64 // the version with which it joined
	// Known: every member of that time has a table that names this node, or was suspended for so long
	// that it takes no part in a recovery. Only known nodes vote: whoever founds the control plane anew
	// must know all who may hold the old one.
	Known bool
}

// Serves reports whether the node may hold a lease.
func (n *Node) Serves() bool { return n.Status == Up || n.Status == Leaving }

// A Row says who serves one partition. Sync is what the row proposes; ActSync what was last activated,
// and accepted learners with it: each member has every acknowledged write. Nothing is served in Epoch
// before ActEpoch equals it. The slices ascend and are never changed in place.
type Row struct {
	Epoch   Epoch
	Primary Incarnation   // in Sync
	Sync    []Incarnation // not empty; a subset of ActSync

	ActEpoch Epoch // 0: nothing was activated since the partition was created empty
	ActSync  []Incarnation

	Learner  Incarnation // is being sent the partition; 0 without one
	AssignID uint64      // the version that assigned Learner, never used again; 0 without one

	LossCount    uint32 // how often all copies were lost. A replica with an older count starts empty
	Doubts       uint32 // how often a recovery may have lost acknowledged writes; what is left is kept
	LossAccepted uint32 // how many losses and doubts an operator has acknowledged

	EpochVersion uint64 // the version that set Epoch: what a fenced node must have applied
	Modified     uint64 // the version of the last change
}

// Active reports whether the row's configuration may serve.
func (r *Row) Active() bool { return r.ActEpoch == r.Epoch }

// Fence returns the members of the last activated set that the row leaves out. They may still serve
// reads from it, until they have applied EpochVersion or have no lease.
func (r *Row) Fence() []Incarnation {
	var fence []Incarnation
	for _, i := range r.ActSync {
		if !Has(r.Sync, i) {
			fence = append(fence, i)
		}
	}
	return fence
}

// Unaccepted is how many losses and doubts no operator has acknowledged.
func (r *Row) Unaccepted() uint32 { return r.LossCount + r.Doubts - r.LossAccepted }

// names reports whether the row needs to know who i is.
func (r *Row) names(i Incarnation) bool {
	return Has(r.Sync, i) || Has(r.ActSync, i) || r.Learner == i
}

// OnLoss says what becomes of a partition that has lost all copies.
type OnLoss uint8

const (
	Recreate OnLoss = 0 // it starts again, empty
	Refuse   OnLoss = 1 // it waits for the operator
)

func (o OnLoss) String() string {
	switch o {
	case Recreate:
		return "recreate"
	case Refuse:
		return "refuse"
	}
	return fmt.Sprintf("on-loss(%d)", uint8(o))
}

// ParseOnLoss is the inverse of String.
func ParseOnLoss(text string) (OnLoss, error) {
	for o := Recreate; o <= Refuse; o++ {
		if o.String() == text {
			return o, nil
		}
	}
	return 0, fmt.Errorf("%w: on-loss %q, want %v or %v", dramnode.ErrInvalid, text, Recreate, Refuse)
}

// A Mode says what a cluster is for.
type Mode uint8

const (
	Strong Mode = 0 // a store: what was lost is not taken for what was never there
	Cache  Mode = 1 // of single copies: losses are counted, and nobody has to accept them
)

func (m Mode) String() string {
	switch m {
	case Strong:
		return "strong"
	case Cache:
		return "cache"
	}
	return fmt.Sprintf("mode(%d)", uint8(m))
}

// ParseMode is the inverse of String.
func ParseMode(text string) (Mode, error) {
	for m := Strong; m <= Cache; m++ {
		if m.String() == text {
			return m, nil
		}
	}
	return 0, fmt.Errorf("%w: mode %q, want %v or %v", dramnode.ErrInvalid, text, Strong, Cache)
}

// Params are the policies of a cluster; SetParams changes them while it runs.
type Params struct {
	Replicas      uint8 // wanted copies of each partition
	MinSync       uint8 // copies without which writes are refused
	Voters        uint8 // at most so many nodes vote; odd
	MovesPerNode  uint8 // copies under way into, and out of, each node
	Mode          Mode
	OnLoss        OnLoss
	Rereplicate   time.Duration // absence after which a node's copies are made elsewhere, while others are left
	LostAfter     time.Duration // absence, beyond a lease, after which the last copies count as lost
	ForgetAfter   time.Duration // absence after which a node no longer counts as a member
	RebuildBudget uint64        // bytes per second into, and out of, each node
}

// DefaultParams are those of a new cluster.
func DefaultParams() Params {
	return Params{
		Replicas: 3, MinSync: 1, Voters: 5, MovesPerNode: 2, Rereplicate: 10 * time.Second,
		LostAfter: 30 * time.Second, ForgetAfter: 10 * time.Minute, RebuildBudget: 256 << 20,
	}
}

// Validate reports all faults of p.
func (p Params) Validate() error {
	var errs []error
	fault := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...)))
		}
	}
	fault(p.Replicas < 1 || p.Replicas > maxCopies, "replicas = %d, want 1 to %d", p.Replicas, maxCopies)
	fault(p.MinSync < 1 || p.MinSync > p.Replicas, "minSync = %d, want 1 to replicas = %d", p.MinSync, p.Replicas)
	fault(p.Voters%2 == 0 || p.Voters > maxVoters, "voters = %d, want an odd number up to %d", p.Voters, maxVoters)
	fault(p.MovesPerNode < 1, "moves per node = 0")
	fault(p.OnLoss > Refuse || p.Mode > Cache, "on loss = %d, mode = %d", p.OnLoss, p.Mode)
	fault(p.Mode == Cache && (p.Replicas != 1 || p.OnLoss != Recreate), "a cache with replicas = %d, on loss = %v", p.Replicas, p.OnLoss)
	fault(p.Rereplicate < 0 || p.LostAfter < 0 || p.ForgetAfter < p.LostAfter, "rereplicate %v, lost after %v, forget after %v", p.Rereplicate, p.LostAfter, p.ForgetAfter)
	fault(p.RebuildBudget == 0, "rebuild budget = 0")
	return errors.Join(errs...)
}

// Limits on a state that a peer may send.
const (
	maxNodes  = 4 * ring.MaxMembers // with those that are gone and still named
	maxCopies = 8
	maxVoters = 9
	maxName   = ring.MaxNameBytes
	maxAddr   = 256
)

// A State is the table of one cluster at one version.
type State struct {
	ClusterID uint64
	Era       uint32 // rises when the control plane had to be founded anew; comes before every version
	Version   uint64 // the number of commands accepted
	Settings  ring.Config
	MaxValue  uint32 // bytes

	Params        Params
	ParamsVersion uint64 // the version of the last change
	Nodes         []Node // ascending by incarnation
	NodesVersion  uint64 // the version of the last change
	Forgotten     uint64 // the version that last retired a suspended node, which may live and not know; 0: none does
	ForgottenName string // its name, whose next process proves it dead; "": there are several
	Rows          []Row  // one per partition
}

// Found is the first state of a new cluster: first has every partition and has yet to activate it.
func Found(clusterID uint64, settings ring.Config, maxValue uint32, params Params, first Node, unixSeconds uint32) *State {
	first.Status, first.Joined, first.Known = Up, 1, true
	s := &State{
		ClusterID: clusterID, Era: 1, Version: 1, Settings: settings, MaxValue: maxValue,
		Params: params, ParamsVersion: 1, Nodes: []Node{first}, NodesVersion: 1, Rows: make([]Row, settings.Count()),
	}
	alone := []Incarnation{first.Incarnation}
	for p := range s.Rows {
		s.Rows[p] = Row{
			Epoch: Epoch(0).Next(unixSeconds), Primary: first.Incarnation, Sync: alone, ActSync: alone,
			EpochVersion: 1, Modified: 1,
		}
	}
	return s
}

// Node returns the node with this incarnation, nil when there is none. It must not be changed.
func (s *State) Node(i Incarnation) *Node {
	if at, ok := s.find(i); ok {
		return &s.Nodes[at]
	}
	return nil
}

func (s *State) find(i Incarnation) (int, bool) {
	return slices.BinarySearchFunc(s.Nodes, i, func(n Node, i Incarnation) int { return cmp.Compare(n.Incarnation, i) })
}

// Named returns the node of that name that is not gone, or nil.
func (s *State) Named(name string) *Node {
	for at := range s.Nodes {
		if n := &s.Nodes[at]; n.Name == name && n.Status != Gone {
			return n
		}
	}
	return nil
}

// Serves reports whether i may hold a lease.
func (s *State) Serves(i Incarnation) bool {
	n := s.Node(i)
	return n != nil && n.Serves()
}

// Serving returns the members of set that may hold a lease.
func (s *State) Serving(set []Incarnation) []Incarnation {
	var serving []Incarnation
	for _, i := range set {
		if s.Serves(i) {
			serving = append(serving, i)
		}
	}
	return serving
}

// Losses sums the rows' losses and doubts.
func (s *State) Losses() (n uint64) {
	for p := range s.Rows {
		n += uint64(s.Rows[p].LossCount) + uint64(s.Rows[p].Doubts)
	}
	return n
}

// Newer reports whether s comes after o, which may be nil.
func (s *State) Newer(o *State) bool {
	return o == nil || s.Era > o.Era || s.Era == o.Era && s.Version > o.Version
}

// noted is to follow each loss and doubt of a row: in a cache they are accepted at once.
func (s *State) noted(r *Row) {
	if s.Params.Mode == Cache {
		r.LossAccepted = r.LossCount + r.Doubts
	}
}

func (s *State) clone() *State {
	c := *s
	c.Nodes, c.Rows = slices.Clone(s.Nodes), slices.Clone(s.Rows)
	return &c
}

// Has reports whether the ascending set has i.
func Has(set []Incarnation, i Incarnation) bool {
	_, ok := slices.BinarySearch(set, i)
	return ok
}

// With returns set with i.
func With(set []Incarnation, i Incarnation) []Incarnation {
	at, ok := slices.BinarySearch(set, i)
	if ok {
		return set
	}
	return slices.Insert(slices.Clone(set), at, i)
}

// Without returns set without i.
func Without(set []Incarnation, i Incarnation) []Incarnation {
	at, ok := slices.BinarySearch(set, i)
	if !ok {
		return set
	}
	return slices.Delete(slices.Clone(set), at, at+1)
}

func within(set, of []Incarnation) bool {
	return !slices.ContainsFunc(set, func(i Incarnation) bool { return !Has(of, i) })
}

// A set ascends strictly.
func isSet(set []Incarnation) bool {
	for k := range set {
		if k > 0 && set[k-1] >= set[k] {
			return false
		}
	}
	return true
}
