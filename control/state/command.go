package state

import (
	"errors"
	"fmt"
	"slices"

	"github.com/dramnode/dramnode/internal/rule"
	"github.com/dramnode/dramnode/ring"
)

// ErrRejected is wrapped when a command was decided for another state than the one it met. Whoever
// proposed it looks at the new state and decides again; nothing else happened.
var ErrRejected = errors.New("state: command rejected")

func rejected(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrRejected, fmt.Sprintf(format, args...))
}

// A Command is one change. It names what it was decided for, and is rejected when that no longer holds:
// a late proposal of an old leader does no harm.
type Command interface {
	// check says why the command cannot be applied to s.
	check(s *State) error
	// apply changes s, whose Version is already the one after the command.
	apply(s *State)
	kind() kind
	encode(e *encoder)
}

// Join makes a process a node. It may replace a suspended node of its name, which is gone from then on.
type Join struct {
	Node     Node
	Replaces Incarnation
}

// Suspend says that a node has no lease. The rows follow by Reconfigure, in the same batch.
type Suspend struct{ Node Incarnation }

// Return lets a suspended node hold leases again. It keeps the roles that the rows still give it.
type Return struct{ Node Incarnation }

// Leave makes a node give its copies away.
type Leave struct{ Node Incarnation }

// Retire says that a node never comes back: one that is suspended, or one that is leaving and that no row
// names.
type Retire struct{ Node Incarnation }

// Know says that a node may vote.
type Know struct{ Node Incarnation }

// Assign makes a node the learner of a row, or with Learner 0 ends the assignment.
type Assign struct {
	Partition ring.Partition
	Epoch     Epoch
	AssignID  uint64 // the present one
	Learner   Incarnation
}

// Promote takes the learner into the row: it has everything, and acknowledges every write.
type Promote struct {
	Partition       ring.Partition
	Epoch, NewEpoch Epoch
	AssignID        uint64
}

// Activate lets a row serve: its members have adopted its epoch, and its fence is clear. From then on nobody
// else is a candidate, so each member must be alive as far as the log knows.
type Activate struct {
	Partition ring.Partition
	Epoch     Epoch
	Primary   Incarnation
}

// Reconfigure proposes another set or primary for a row, out of the activated set.
type Reconfigure struct {
	Partition       ring.Partition
	Epoch, NewEpoch Epoch
	Primary         Incarnation
	Sync            []Incarnation
}

// DeclareLost starts a partition again, empty, when all of its activated set is gone.
type DeclareLost struct {
	Partition       ring.Partition
	Epoch, NewEpoch Epoch
	Owner           Incarnation
}

// AcceptLoss is an operator's acknowledgement of the losses and doubts so far, which are Count.
type AcceptLoss struct {
	Partition ring.Partition
	Count     uint32
}

// SetParams changes the policies.
type SetParams struct {
	ParamsVersion uint64 // the present one
	Params        Params
}

// Apply returns the state after a batch, and for each command why it was rejected, or nil. Each accepted
// command is one version; nobody sees a state within a batch. s is unchanged, and returned when all
// commands were rejected.
func (s *State) Apply(batch []Command) (*State, []error) {
	d, errs := s.Draft(), make([]error, len(batch))
	for i, c := range batch {
		errs[i] = d.Do(c)
	}
	if d.State.Version > s.Version {
		d.prune()
	}
	return d.State, errs
}

// A Draft applies commands one by one, to find out what to propose. Only the State of a batch that went
// through the log counts.
type Draft struct {
	*State // the result so far; the pointer changes with the first command that is accepted
	from   *State
}

// Draft begins with s, which stays as it is.
func (s *State) Draft() *Draft { return &Draft{State: s, from: s} }

// Do applies c, or says why it is rejected.
func (d *Draft) Do(c Command) error {
	if err := c.check(d.State); err != nil {
		return err
	}
	if d.State == d.from {
		d.State = d.from.clone()
	}
	d.Version++
	c.apply(d.State)
	return nil
}

// prune forgets nodes that are gone and that no row names.
func (s *State) prune() {
	needless := func(n Node) bool {
		return n.Status == Gone && !slices.ContainsFunc(s.Rows, func(r Row) bool { return r.names(n.Incarnation) })
	}
	if slices.ContainsFunc(s.Nodes, needless) {
		s.Nodes = slices.DeleteFunc(s.Nodes, needless)
		s.NodesVersion = s.Version
	}
}

func (c Join) check(s *State) error {
	if err := c.Node.validate(); err != nil {
		return err
	}
	if c.Node.Status != Up {
		return rejected("%s joins as %v", c.Node.Name, c.Node.Status)
	}
	if s.Node(c.Node.Incarnation) != nil {
		return rejected("%s has joined already", c.Node.Name)
	}
	old := s.Named(c.Node.Name)
	if old == nil && c.Replaces != 0 || old != nil && (c.Replaces != old.Incarnation || old.Status != Suspended) {
		return rejected("%s joins in place of %x, which is not what has the name", c.Node.Name, c.Replaces)
	}
	members := 0
	for i := range s.Nodes {
		if s.Nodes[i].Status != Gone {
			members++
		}
	}
	if placed := len(s.Rows) - len(s.Settings.Rules); old == nil && (members >= placed || members >= ring.MaxMembers) || len(s.Nodes) >= maxNodes {
		return rejected("%d members are too many for %d partitions, at most %d", members+1, placed, ring.MaxMembers)
	}
	return nil
}

func (c Join) apply(s *State) {
	s.setStatus(c.Replaces, Gone)
	if c.Node.Name == s.ForgottenName {
		s.remember()
	}
	at, _ := s.find(c.Node.Incarnation)
	c.Node.Joined, c.Node.Known = s.Version, false
	s.Nodes, s.NodesVersion = slices.Insert(s.Nodes, at, c.Node), s.Version
}

func (s *State) setStatus(i Incarnation, status Status) {
	if at, ok := s.find(i); ok {
		s.Nodes[at].Status, s.NodesVersion = status, s.Version
	}
}

func (s *State) wantStatus(i Incarnation, may ...Status) error {
	n := s.Node(i)
	if n == nil {
		return rejected("no node %x", i)
	}
	if !slices.Contains(may, n.Status) {
		return rejected("%s is %v", n.Name, n.Status)
	}
	return nil
}

func (c Suspend) check(s *State) error { return s.wantStatus(c.Node, Up, Leaving) }
func (c Suspend) apply(s *State)       { s.setStatus(c.Node, Suspended) }

func (c Return) check(s *State) error { return s.wantStatus(c.Node, Suspended) }
func (c Return) apply(s *State)       { s.setStatus(c.Node, Up) }

func (c Leave) check(s *State) error { return s.wantStatus(c.Node, Up) }
func (c Leave) apply(s *State)       { s.setStatus(c.Node, Leaving) }

func (c Retire) check(s *State) error {
	if err := s.wantStatus(c.Node, Suspended, Leaving); err != nil || s.Node(c.Node).Status == Suspended {
		return err
	}
	for p := range s.Rows {
		if s.Rows[p].names(c.Node) {
			return rejected("%s still has partition %d", s.Node(c.Node).Name, p)
		}
	}
	return nil
}

func (c Retire) apply(s *State) {
	if n := s.Node(c.Node); n.Status == Suspended {
		if s.ForgottenName = n.Name; s.Forgotten != 0 {
			s.ForgottenName = ""
		}
		s.Forgotten = s.Version
	}
	s.setStatus(c.Node, Gone)
}

// remember says that no node that was retired in its absence can live and not know.
func (s *State) remember() { s.Forgotten, s.ForgottenName = 0, "" }

func (c Know) check(s *State) error {
	if err := s.wantStatus(c.Node, Up); err != nil {
		return err
	}
	if s.Node(c.Node).Known {
		return rejected("%s is known", s.Node(c.Node).Name)
	}
	return nil
}

func (c Know) apply(s *State) {
	at, _ := s.find(c.Node)
	s.Nodes[at].Known, s.NodesVersion = true, s.Version
	s.remember() // nobody is made known before that
}

// row returns the row that a command was decided for.
func (s *State) row(p ring.Partition, e Epoch) (*Row, error) {
	if int(p) >= len(s.Rows) {
		return nil, rejected("no partition %d", p)
	}
	r := &s.Rows[p]
	if r.Epoch != e && !rule.Off(rule.EpochMatches) {
		return nil, rejected("partition %d is in epoch %d, not %d", p, r.Epoch, e)
	}
	return r, nil
}

func (s *State) checkNewEpoch(r *Row, e Epoch) error {
	if e <= r.Epoch || e > maxEpoch {
		return rejected("epoch %d after %d", e, r.Epoch)
	}
	return nil
}

// mayHold says why i can be given no copy.
func (s *State) mayHold(i Incarnation) error {
	if err := s.wantStatus(i, Up); err != nil {
		return err
	}
	if s.Node(i).Witness {
		return rejected("%s is a witness", s.Node(i).Name)
	}
	return nil
}

func (c Assign) check(s *State) error {
	r, err := s.row(c.Partition, c.Epoch)
	switch {
	case err != nil:
		return err
	case !r.Active():
		return rejected("partition %d is not active", c.Partition)
	case r.AssignID != c.AssignID || r.Learner == c.Learner:
		return rejected("partition %d has learner %x by assignment %d", c.Partition, r.Learner, r.AssignID)
	case c.Learner == 0:
		return nil
	case Has(r.Sync, c.Learner) || len(r.Sync) >= maxCopies:
		return rejected("partition %d is at %x already, or has too many copies", c.Partition, c.Learner)
	}
	return s.mayHold(c.Learner)
}

func (c Assign) apply(s *State) {
	r := &s.Rows[c.Partition]
	r.Learner, r.AssignID, r.Modified = c.Learner, s.Version, s.Version
	if c.Learner == 0 {
		r.AssignID = 0
	}
}

func (c Promote) check(s *State) error {
	r, err := s.row(c.Partition, c.Epoch)
	switch {
	case err != nil:
		return err
	case !r.Active() || r.Learner == 0:
		return rejected("partition %d is not active or has no learner", c.Partition)
	case r.AssignID != c.AssignID && !rule.Off(rule.AssignMatches):
		return rejected("partition %d has assignment %d, not %d", c.Partition, r.AssignID, c.AssignID)
	}
	if err := s.checkNewEpoch(r, c.NewEpoch); err != nil {
		return err
	}
	return s.mayHold(r.Learner)
}

// From the promotion on, the learner counts as activated: the primary has had its acknowledgement
// for every write since before it proposed the promotion.
func (c Promote) apply(s *State) {
	r := &s.Rows[c.Partition]
	r.ActSync = With(r.ActSync, r.Learner)
	r.propose(c.NewEpoch, r.Primary, With(r.Sync, r.Learner), s.Version)
}

func (r *Row) propose(e Epoch, primary Incarnation, sync []Incarnation, version uint64) {
	r.Epoch, r.Primary, r.Sync = e, primary, sync
	r.Learner, r.AssignID = 0, 0
	r.EpochVersion, r.Modified = version, version
}

func (c Activate) check(s *State) error {
	r, err := s.row(c.Partition, c.Epoch)
	if err != nil {
		return err
	}
	if r.Active() || r.Primary != c.Primary {
		return rejected("partition %d is active, or its primary is %x", c.Partition, r.Primary)
	}
	if !rule.Off(rule.ActivateAlive) {
		for _, i := range r.Sync {
			if err := s.wantStatus(i, Up, Leaving); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c Activate) apply(s *State) {
	r := &s.Rows[c.Partition]
	r.ActEpoch, r.ActSync, r.Modified = r.Epoch, r.Sync, s.Version
}

func (c Reconfigure) check(s *State) error {
	r, err := s.row(c.Partition, c.Epoch)
	if err != nil {
		return err
	}
	from := r.ActSync
	if rule.Off(rule.FromActivated) {
		from = r.Sync
	}
	switch {
	case len(c.Sync) == 0 || !isSet(c.Sync) || !Has(c.Sync, c.Primary):
		return rejected("partition %d: primary %x of %x", c.Partition, c.Primary, c.Sync)
	case !within(c.Sync, from):
		return rejected("partition %d: %x has members that were not activated in %x", c.Partition, c.Sync, from)
	}
	for _, i := range c.Sync {
		if err := s.wantStatus(i, Up, Leaving, Suspended); err != nil {
			return err
		}
	}
	return s.checkNewEpoch(r, c.NewEpoch)
}

func (c Reconfigure) apply(s *State) {
	s.Rows[c.Partition].propose(c.NewEpoch, c.Primary, c.Sync, s.Version)
}

func (c DeclareLost) check(s *State) error {
	r, err := s.row(c.Partition, c.Epoch)
	if err != nil {
		return err
	}
	for _, i := range r.ActSync {
		if n := s.Node(i); n != nil && n.Status != Gone {
			return rejected("partition %d: %s is %v and may have it", c.Partition, n.Name, n.Status)
		}
	}
	if err := s.checkNewEpoch(r, c.NewEpoch); err != nil {
		return err
	}
	return s.mayHold(c.Owner)
}

// A partition that was never activated since its last loss had nothing to lose.
func (c DeclareLost) apply(s *State) {
	r := &s.Rows[c.Partition]
	if r.ActEpoch != 0 {
		r.LossCount++
		s.noted(r)
	}
	alone := []Incarnation{c.Owner}
	r.ActEpoch, r.ActSync = 0, alone
	r.propose(c.NewEpoch, c.Owner, alone, s.Version)
}

func (c AcceptLoss) check(s *State) error {
	if int(c.Partition) >= len(s.Rows) {
		return rejected("no partition %d", c.Partition)
	}
	if r := &s.Rows[c.Partition]; r.LossCount+r.Doubts != c.Count || r.Unaccepted() == 0 {
		return rejected("partition %d has %d losses and %d doubts, %d of them accepted", c.Partition, r.LossCount, r.Doubts, r.LossAccepted)
	}
	return nil
}

func (c AcceptLoss) apply(s *State) {
	r := &s.Rows[c.Partition]
	r.LossAccepted, r.Modified = c.Count, s.Version
}

func (c SetParams) check(s *State) error {
	if c.ParamsVersion != s.ParamsVersion {
		return rejected("params are of version %d, not %d", s.ParamsVersion, c.ParamsVersion)
	}
	return c.Params.Validate()
}

func (c SetParams) apply(s *State) { s.Params, s.ParamsVersion = c.Params, s.Version }
