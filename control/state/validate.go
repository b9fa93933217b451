package state

import (
	"errors"
	"fmt"
	"slices"
)

// ErrMalformed is wrapped by every error about bytes, or values, that cannot be a state or a command.
var ErrMalformed = errors.New("state: malformed")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

func (n *Node) validate() error {
	switch {
	case !n.Incarnation.Valid():
		return malformed("incarnation %#x", uint64(n.Incarnation))
	case n.Name == "" || len(n.Name) > maxName:
		return malformed("name of %d bytes, want 1 to %d", len(n.Name), maxName)
	case n.Addr == "" || len(n.Addr) > maxAddr:
		return malformed("address of %d bytes, want 1 to %d", len(n.Addr), maxAddr)
	case len(n.Zone) > maxName:
		return malformed("zone of %d bytes, at most %d", len(n.Zone), maxName)
	case n.Status < Up || n.Status > Gone:
		return malformed("%s has %v", n.Name, n.Status)
	}
	return nil
}

// Validate reports the first broken rule of a state. What Apply returns is always valid.
func (s *State) Validate() error {
	if s.ClusterID == 0 || s.Era == 0 || s.Version == 0 || s.ParamsVersion > s.Version || s.NodesVersion > s.Version || s.Forgotten > s.NodesVersion {
		return malformed("cluster %#x, era %d, version %d, params %d, nodes %d", s.ClusterID, s.Era, s.Version, s.ParamsVersion, s.NodesVersion)
	}
	if s.Forgotten == 0 && s.ForgottenName != "" || len(s.ForgottenName) > maxName {
		return malformed("%.80q was forgotten at version %d", s.ForgottenName, s.Forgotten)
	}
	if err := s.Settings.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if err := s.Params.Validate(); err != nil {
		return err
	}
	if err := s.validateNodes(); err != nil {
		return err
	}
	if len(s.Rows) != s.Settings.Count() {
		return malformed("%d rows for %d partitions", len(s.Rows), s.Settings.Count())
	}
	for p := range s.Rows {
		if err := s.validateRow(&s.Rows[p]); err != nil {
			return fmt.Errorf("partition %d: %w", p, err)
		}
	}
	return nil
}

func (s *State) validateNodes() error {
	if len(s.Nodes) > maxNodes {
		return malformed("%d nodes, at most %d", len(s.Nodes), maxNodes)
	}
	names := make(map[string]bool, len(s.Nodes))
	for i := range s.Nodes {
		n := &s.Nodes[i]
		if err := n.validate(); err != nil {
			return err
		}
		if i > 0 && s.Nodes[i-1].Incarnation >= n.Incarnation {
			return malformed("node %s is out of order", n.Name)
		}
		if n.Status != Gone && names[n.Name] {
			return malformed("two nodes are called %q", n.Name)
		}
		names[n.Name] = names[n.Name] || n.Status != Gone
	}
	return nil
}

// Validate reports a row that no table has, whatever its nodes and its version.
func (r *Row) Validate() error {
	switch {
	case r.Epoch == 0 || r.Epoch > maxEpoch || r.ActEpoch > r.Epoch:
		return malformed("epoch %d, activated %d", r.Epoch, r.ActEpoch)
	case len(r.Sync) == 0 || len(r.ActSync) > maxCopies || !isSet(r.Sync) || !isSet(r.ActSync) || !within(r.Sync, r.ActSync):
		return malformed("set %x of activated %x", r.Sync, r.ActSync)
	case !Has(r.Sync, r.Primary):
		return malformed("primary %x of %x", r.Primary, r.Sync)
	case r.Active() && !slices.Equal(r.Sync, r.ActSync):
		return malformed("active with %x, not %x", r.ActSync, r.Sync)
	case (r.Learner == 0) != (r.AssignID == 0) || r.Learner != 0 && (!r.Active() || Has(r.Sync, r.Learner)):
		return malformed("learner %x by assignment %d in epoch %d, activated %d", r.Learner, r.AssignID, r.Epoch, r.ActEpoch)
	case uint64(r.LossAccepted) > uint64(r.LossCount)+uint64(r.Doubts):
		return malformed("%d of %d losses and %d doubts accepted", r.LossAccepted, r.LossCount, r.Doubts)
	case r.EpochVersion == 0 || r.EpochVersion > r.Modified || r.AssignID > r.Modified:
		return malformed("versions %d, %d, %d", r.EpochVersion, r.AssignID, r.Modified)
	}
	return nil
}

func (s *State) validateRow(r *Row) error {
	if err := r.Validate(); err != nil {
		return err
	}
	if r.Modified > s.Version {
		return malformed("versions up to %d of %d", r.Modified, s.Version)
	}
	for _, i := range r.ActSync {
		if s.Node(i) == nil {
			return malformed("names %x, which is no node", i)
		}
	}
	if r.Learner != 0 && s.Node(r.Learner) == nil {
		return malformed("learner %x is no node", r.Learner)
	}
	return nil
}
