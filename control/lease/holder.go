package lease

import (
	"errors"
	"fmt"
	"time"

	"github.com/dramnode/dramnode/control/state"
	"github.com/dramnode/dramnode/internal/rule"
)

// ErrGrant is wrapped when a grant cannot be an answer to what this node sent.
var ErrGrant = errors.New("lease: not our grant")

// A Holder is a node's lease and the table that it has applied: the one never gets ahead of the other.
type Holder struct {
	self   state.Incarnation
	timing Timing

	table *state.State // nil before the first
	until time.Duration
	next  time.Duration // when to renew

	asked   time.Duration // when the last renewal was sent
	dropped time.Duration // no lease counts that was asked for up to then
}

// NewHolder returns a holder without table or lease.
func NewHolder(self state.Incarnation, timing Timing) *Holder {
	return &Holder{self: self, timing: timing}
}

// Table is the newest table known here, nil before the first. It is never changed.
func (h *Holder) Table() *state.State { return h.table }

// Install takes a table that came by another way, such as the log, if it is newer.
func (h *Holder) Install(s *state.State) (newer bool) {
	if s == nil || !s.Newer(h.table) {
		return false
	}
	if h.table != nil && s.Era != h.table.Era {
		h.Drop() // what another era granted does not count in this one
	}
	if fences(h.table, s, h.self) {
		h.next = 0 // others wait until we have said that we know
	}
	h.table = s
	return true
}

// fences reports whether a row that changed between two tables leaves i out, and has not been activated yet.
func fences(old, s *state.State, i state.Incarnation) bool {
	for p := range s.Rows {
		r := &s.Rows[p]
		if old != nil && r.EpochVersion > old.Version && !r.Active() && state.Has(r.ActSync, i) && !state.Has(r.Sync, i) {
			return true
		}
	}
	return false
}

// Drop ends the lease for good: only one that was asked for later counts.
func (h *Holder) Drop() { h.until, h.dropped = 0, h.asked }

// Due returns the renewal to send at now, if it is time for one.
func (h *Holder) Due(now time.Duration) (Renewal, bool) {
	if h.table == nil || now < h.next {
		return Renewal{}, false
	}
	h.next, h.asked = now+h.timing.Renew, now
	return Renewal{Node: h.self, Era: h.table.Era, Applied: h.table.Version, Sent: now}, true
}

// DueSoon is Due a little early, for a renewal that costs less now.
func (h *Holder) DueSoon(now time.Duration) (Renewal, bool) {
	if h.next-now > h.timing.Renew/3 {
		return Renewal{}, false
	}
	h.next = min(h.next, now)
	return h.Due(now)
}

// Next returns when Due is to be asked. Only with a table there is anything to renew.
func (h *Holder) Next() time.Duration { return h.next }

// Granted takes the table of a grant and then, counted from when the renewal was sent, its lease. With an
// error neither is taken.
func (h *Holder) Granted(now time.Duration, g Grant) error {
	if g.Sent > now || g.Length > h.timing.Length || g.Length < 0 {
		return fmt.Errorf("%w: %v from %v, now is %v", ErrGrant, g.Length, g.Sent, now)
	}
	table, err := h.table.Merge(g.Table)
	if rule.Off(rule.LeaseWithTable) {
		table, err = h.table, nil
	}
	if err != nil {
		return err
	}
	h.Install(table)
	if g.Era != h.table.Era {
		return fmt.Errorf("%w: of era %d, ours is %d", ErrGrant, g.Era, h.table.Era)
	}
	if g.Sent <= h.dropped && h.dropped != 0 {
		return fmt.Errorf("%w: asked for at %v, dropped at %v", ErrGrant, g.Sent, h.dropped)
	}
	from := g.Sent
	if rule.Off(rule.LeaseFromSend) {
		from = now
	}
	h.until = max(h.until, from+g.Length)
	return nil
}

// Valid reports whether the node may answer for what it captured before now, if its epoch is still the same.
func (h *Holder) Valid(now time.Duration) bool {
	return now < h.until && h.table.Serves(h.self)
}

// Until is the end of the lease, for those who check it without this object: never before Until, always
// after it. It is 0 while there is none.
func (h *Holder) Until() time.Duration {
	if h.table == nil || !h.table.Serves(h.self) {
		return 0
	}
	return h.until
}
