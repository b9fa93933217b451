// Package member runs a process's part in the control plane: it gives package group time and messages, sends
// what it answers, and shows the table and the lease to the data path.
package member

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control/group"
	"github.com/dramnode/dramnode/control/leader"
	"github.com/dramnode/dramnode/control/state"
)

// Peers is what a member needs of the network. It must be the one that carries values, so that a hung data
// path costs the lease.
type Peers interface {
	// Send passes a message to whatever process listens at addr. It does not block, does not keep b, and
	// may lose it.
	Send(addr string, b []byte)
}

// A Config is what a Member needs. Group.Timing and the clocks included, all is required.
type Config struct {
	Group group.Config
	Peers Peers

	// OnTable runs for each new table, in order, on Run's goroutine. What it does, such as adopting the
	// rows, is done when it returns: only then the lease that came with the table counts.
	OnTable func(old, new *state.State)

	// Sizes are the partitions that this node is the primary of, with their bytes.
	Sizes func() []group.Usage

	Boot func() time.Duration // BootTime
	Wall func() time.Time
	Log  zerolog.Logger
}

const (
	publishInterval = 100 * time.Millisecond // at least between two looks at every row, by the leader
	sizesInterval   = time.Second            // the health, for the sizes in it, too
	leaveInterval   = 200 * time.Millisecond
	inboxLength     = 4096
	maxStep         = 256 // messages of a step, after which its effects come
	maxEvents       = 256
)

// A Member is the running part. Its methods may be called from any goroutine.
type Member struct {
	cfg       Config
	group     *group.Group // Run's goroutine alone
	inbox     chan group.Message
	asks      chan leader.Ask
	words     chan word
	sizes     time.Duration // when to report next
	shown     time.Duration // when the status was published
	due       time.Duration // when the timer fires
	published *state.State  // with the status

	messages []group.Message // of the step under way

	table   atomic.Pointer[state.State]
	until   atomic.Int64 // the lease
	leased  atomic.Bool  // at the last turn
	dropped atomic.Uint64

	mu     sync.Mutex
	status Status
	events []Event
}

// Status is the control plane as this member sees it.
type Status struct {
	Leader    state.Incarnation // 0: unknown
	Leading   bool
	Health    leader.Health // while Leading
	Conflicts uint64        // messages of other clusters
	Dropped   uint64        // messages that came faster than they were read
}

// An Event is something that an operator would want to know.
type Event struct {
	At   time.Time `json:"at"`
	Text string    `json:"text"`
}

// A word is an operator's, and waits for what is said to it.
type word struct {
	dead   []string
	answer chan error // with room for it
}

// New returns a member that does nothing before Run.
func New(cfg Config) (*Member, error) {
	g, err := group.New(cfg.Group)
	if err != nil {
		return nil, err
	}
	return &Member{cfg: cfg, group: g, inbox: make(chan group.Message, inboxLength), asks: make(chan leader.Ask, inboxLength), words: make(chan word)}, nil
}

// Table returns the newest table that OnTable has seen, nil before the first.
func (m *Member) Table() *state.State { return m.table.Load() }

// Until returns the end of the lease on the clock Boot: what was captured before is good if the clock,
// read after that, has not reached it.
func (m *Member) Until() time.Duration { return time.Duration(m.until.Load()) }

// LatelyLeased reports whether there was a lease a moment ago. It costs no reading of the clock, and is no more than a
// reason not to begin.
func (m *Member) LatelyLeased() bool { return m.leased.Load() }

// Leased reports whether this node may serve right now.
func (m *Member) Leased() bool { return m.cfg.Boot() < m.Until() }

// Status returns the state of affairs.
func (m *Member) Status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.status
}

// Events returns the latest events, oldest first.
func (m *Member) Events() []Event {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]Event(nil), m.events...)
}

// Deliver takes a message that a peer sent. It keeps no part of b.
func (m *Member) Deliver(b []byte) error {
	msg, err := group.ParseMessage(append([]byte(nil), b...))
	if err != nil {
		return fmt.Errorf("%w: %w", dramnode.ErrInvalid, err)
	}
	select {
	case m.inbox <- msg:
		return nil
	default:
		m.dropped.Add(1)
		return fmt.Errorf("%w: %d control messages wait", dramnode.ErrBusy, inboxLength)
	}
}

// Ask passes a wish on to the leader. It may get lost: ask again until the table shows the answer.
func (m *Member) Ask(a leader.Ask) error {
	select {
	case m.asks <- a:
		return nil
	default:
		return fmt.Errorf("%w: %d wishes wait", dramnode.ErrBusy, inboxLength)
	}
}

// Recover is Group.Recover.
func (m *Member) Recover(ctx context.Context, assertDead []string) error {
	w := word{assertDead, make(chan error, 1)}
	select {
	case m.words <- w:
		return <-w.answer
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Leave gives this node's copies to others and returns when the cluster does without it.
func (m *Member) Leave(ctx context.Context) error {
	ticker := time.NewTicker(leaveInterval)
	defer ticker.Stop()
	for {
		t := m.Table()
		if t == nil {
			return nil
		}
		if n := t.Node(m.cfg.Group.Self.Incarnation); n == nil || n.Status == state.Gone {
			return nil
		}
		if err := m.Ask(leader.Ask{Kind: leader.AskLeave}); err != nil {
			m.cfg.Log.Debug().Err(err).Msg("leaving")
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

// Run takes part until ctx ends, and then returns nil, or until this process must not go on under its
// incarnation: then it says why, with group.ErrRetired when the cluster does without it.
func (m *Member) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	defer m.leased.Store(false)
	defer m.until.Store(0)
	for {
		select {
		case <-ctx.Done():
			return nil
		case msg := <-m.inbox:
			m.messages = append(m.messages[:0], msg)
			for range min(len(m.inbox), maxStep-1) {
				m.messages = append(m.messages, <-m.inbox)
			}
			m.group.Step(m.cfg.Boot(), m.messages...)
			clear(m.messages)
		case a := <-m.asks:
			m.group.Ask(a)
			for range len(m.asks) { // of a new table, mostly: one decision for all of them
				m.group.Ask(<-m.asks)
			}
		case w := <-m.words:
			w.answer <- m.group.Recover(w.dead)
		case <-timer.C:
			m.tick(m.cfg.Boot())
		}
		m.turn()
		if err := m.group.Err(); err != nil {
			return err
		}
		if next := m.next(); next != m.due {
			m.due = next
			timer.Reset(next - m.cfg.Boot())
		}
	}
}

// tick does what is due by now.
func (m *Member) tick(now time.Duration) {
	m.due = 0
	m.group.Tick(now, uint32(m.cfg.Wall().Unix()))
	m.report(now)
	m.publish(now)
}

// next returns when tick has something to do.
func (m *Member) next() time.Duration {
	next := min(m.group.Next(), m.sizes)
	if m.news() {
		next = min(next, m.shown+publishInterval)
	}
	return max(next, 1)
}

// turn shows what has changed, and sends.
func (m *Member) turn() {
	until := int64(m.group.Lease.Until())
	if until < m.until.Load() {
		m.until.Store(until) // a lease that ended early ends before anything else happens
	}
	if old, t := m.table.Load(), m.group.Table(); t != old {
		m.cfg.OnTable(old, t)
		m.table.Store(t)
		m.note(t.Events(old))
	}
	m.until.Store(until)
	m.leased.Store(m.Leased())
	for _, msg := range m.group.Take() {
		m.cfg.Peers.Send(msg.Addr, msg.Append(nil))
	}
}

func (m *Member) note(texts []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, text := range texts {
		m.cfg.Log.Info().Msg(text)
		m.events = append(m.events, Event{m.cfg.Wall(), text})
	}
	m.events = m.events[max(0, len(m.events)-maxEvents):]
}

func (m *Member) report(now time.Duration) {
	if now < m.sizes {
		return
	}
	m.sizes = now + sizesInterval
	if sizes := m.cfg.Sizes(); len(sizes) > 0 {
		m.group.Report(sizes)
	}
}

// news reports whether the published status is not that of now, as far as that costs nothing to know.
func (m *Member) news() bool {
	return m.status.Leader != m.group.Leader() || m.status.Leading != m.group.Leading() || m.published != m.group.Table()
}

func (m *Member) publish(now time.Duration) {
	if pause := now - m.shown; pause < publishInterval || pause < sizesInterval && !m.news() {
		return
	}
	m.shown, m.published = now, m.group.Table()
	s := Status{Leader: m.group.Leader(), Leading: m.group.Leading(), Conflicts: m.group.Conflicts(), Dropped: m.dropped.Load()}
	s.Health, _ = m.group.Health()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.status = s
}

// Retired reports whether err means that the cluster does without this incarnation, so that the process
// may come back as another one.
func Retired(err error) bool { return errors.Is(err, group.ErrRetired) }
