package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/ring"
	"github.com/dramnode/dramnode/wire"
)

// Peers is what the publisher needs of the network.
type Peers interface {
	// Call asks the process at addr and returns the reply's body, which the caller may keep.
	Call(ctx context.Context, addr string, kind wire.Kind, body []byte) ([]byte, error)

	// Contact reports whether the process with this incarnation is reachable right now.
	Contact(incarnation uint64) bool
}

// A Sighting is a process that gossip knows of.
type Sighting struct {
	Name         string
	Incarnation  uint64
	Addr         string // to dial
	Gossip       string // where its gossip listens, to be compared with seeds
	ClusterID    uint64 // 0: it has no table
	TableVersion uint64
}

// PublisherConfig is what a Publisher needs. Peers, Sightings and OnTable are required.
type PublisherConfig struct {
	Self     Member
	Settings ring.Config
	MaxValue uint32
	Limits   Limits

	// Bootstrap says when a process without table may found a cluster: always (no seeds were given),
	// or only when every address of Founders, its own included, is a blank process and it has the
	// lowest name of them. With neither it waits for a cluster to join.
	Alone    bool
	Founders func() (addresses []string, err error)

	Peers     Peers
	Sightings func() []Sighting

	// OnTable runs for each new table, in order, on the goroutine that installs it and under the
	// publisher's lock: it must neither block nor call the publisher.
	OnTable func(old, new *Table)

	NewID func() uint64    // random and never 0
	Now   func() time.Time // with a monotonic reading
	Log   zerolog.Logger
}

const (
	tickInterval   = 100 * time.Millisecond
	probeTimeout   = 700 * time.Millisecond
	pushTimeout    = 2 * time.Second
	joinInterval   = 500 * time.Millisecond
	takeoverAfter  = 3 * time.Second // absence after which the next member publishes
	joinFreshness  = 3 * time.Second // a join proposal is evidence of life for this long
	nameGrace      = 2 * time.Second // before a join is refused for its name: a restart may be quicker than the news of the death
	maxEvents      = 256
	stallThreshold = time.Second // a tick later than this: our own process stood still
)

// A Publisher decides in a cluster without consensus, whose partitions have one copy: the lowest (join sequence, name) in the
// table publishes, and only after a direct probe reached a majority of the table's members that
// agree. Tables of equal version from different publishers are refused by everybody.
type Publisher struct {
	cfg     PublisherConfig
	planner Planner // used by Run's goroutine alone
	kick    chan struct{}
	table   atomic.Pointer[Table]
	hint    atomic.Uint64
	quorate atomic.Int64 // UnixNano-like monotonic offset of the last moment with a majority in contact
	origin  time.Time

	mu        sync.Mutex
	encoded   []byte               // of the current table
	joins     map[uint64]pending   // by incarnation
	leaves    map[uint64]bool      // incarnations
	done      []Move               // reported since the last plan
	aborted   []Move               // reported since the last plan
	refused   map[uint64]error     // joins that the last plans refused
	lastSeen  map[uint64]time.Time // members: when somebody last reached them
	conflicts uint64
	events    []Event
	fatal     error
}

type pending struct {
	member    Member
	since, at time.Time // first and last heard
}

// An Event is something that an operator would want to know.
type Event struct {
	At   time.Time `json:"at"`
	Text string    `json:"text"`
}

// NewPublisher returns a publisher that does nothing before Run.
func NewPublisher(cfg PublisherConfig) (*Publisher, error) {
	if err := checkMember(cfg.Self); err != nil {
		return nil, err
	}
	if err := cfg.Settings.Validate(); err != nil {
		return nil, err
	}
	p := &Publisher{
		cfg: cfg, planner: Planner{Limits: cfg.Limits}, kick: make(chan struct{}, 1), origin: cfg.Now(),
		joins: map[uint64]pending{}, leaves: map[uint64]bool{}, refused: map[uint64]error{}, lastSeen: map[uint64]time.Time{},
	}
	return p, nil
}

// Table returns the newest table known here, nil before the first.
func (p *Publisher) Table() *Table { return p.table.Load() }

// Hint says that a peer has seen table version v.
func (p *Publisher) Hint(v uint64) {
	for {
		old := p.hint.Load()
		if v <= old {
			return
		}
		if p.hint.CompareAndSwap(old, v) {
			p.wake()
			return
		}
	}
}

// Quorate reports whether others could not have formed a majority without this process.
func (p *Publisher) Quorate() bool { return p.QuorateAt(p.cfg.Now()) }

// QuorateAt is Quorate for those who have just read the clock.
func (p *Publisher) QuorateAt(now time.Time) bool { return now.Before(p.QuorateUntil()) }

// QuorateUntil is the instant up to which Quorate holds whatever happens.
func (p *Publisher) QuorateUntil() time.Time {
	// Well under LostAfter, so that a cut-off owner stops before its heirs start.
	return p.origin.Add(time.Duration(p.quorate.Load()) + p.cfg.Limits.LostAfter*2/3)
}

// Events returns the latest events, oldest first.
func (p *Publisher) Events() []Event {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.events)
}

// Conflicts counts the tables that were refused because another cluster or publisher claimed us.
func (p *Publisher) Conflicts() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conflicts
}

func (p *Publisher) wake() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// Run keeps the table current until ctx ends, when it returns nil, or until this process must not go on under
// its identity; then it returns ErrRetired or the reason why joining was refused.
func (p *Publisher) Run(ctx context.Context) error {
	ticker := time.NewTicker(tickInterval)
	defer ticker.Stop()
	last := p.cfg.Now()
	settle := last
	for {
		now := p.cfg.Now()
		if now.Sub(last) > stallThreshold {
			// We stood still (SIGSTOP, a suspended machine). Contacts that look open may be long
			// dead: give the network time to find out before they count as a majority again.
			settle = now.Add(2 * stallThreshold)
		}
		last = now
		if err := p.step(ctx, now, !now.Before(settle)); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case <-p.kick:
		}
	}
}

// step is one turn: found, join, catch up or publish.
func (p *Publisher) step(ctx context.Context, now time.Time, settled bool) error {
	t := p.Table()
	if t == nil {
		return p.enter(ctx, now)
	}
	if err := p.failure(); err != nil {
		return err
	}
	absent := p.observe(t, now, settled)
	// The publisher catches up too: while it was cut off another may have published.
	if err := p.catchUp(ctx, t); err != nil || p.Table() != t {
		return err
	}
	if p.publisherOf(t, absent) != p.cfg.Self.Incarnation {
		return nil
	}
	return p.publish(ctx, t, absent)
}

func (p *Publisher) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fatal
}

// observe notes which members are in contact and returns the absent ones with their absence. A member
// is absent only once: when neither we nor any voter of a recent probe reached it.
func (p *Publisher) observe(t *Table, now time.Time, settled bool) map[uint64]time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	absent := map[uint64]time.Duration{}
	silent := 0
	for i := range t.Members {
		inc := t.Members[i].Incarnation
		if inc == p.cfg.Self.Incarnation {
			continue
		}
		if p.cfg.Peers.Contact(inc) {
			p.lastSeen[inc] = now
			continue
		}
		silent++
		if seen, ok := p.lastSeen[inc]; !ok {
			p.lastSeen[inc] = now
		} else if gone := now.Sub(seen); gone > tickInterval {
			absent[inc] = gone
		}
	}
	if settled && silent < len(t.Members)/2+1 {
		p.quorate.Store(int64(now.Sub(p.origin)))
	}
	return absent
}

// publisherOf returns the incarnation that we hold for the publisher after t.
func (p *Publisher) publisherOf(t *Table, absent map[uint64]time.Duration) uint64 {
	i := t.NextPublisher(func(inc uint64) bool { return absent[inc] >= takeoverAfter || p.superseded(t, inc, absent) })
	if i == None {
		return 0
	}
	return t.Members[i].Incarnation
}

// superseded reports whether an absent member's name is held by a newer process that asks to join:
// proof that the old one is dead (names are unique), so nobody need wait for it.
func (p *Publisher) superseded(t *Table, inc uint64, absent map[uint64]time.Duration) bool {
	if absent[inc] == 0 {
		return false
	}
	name := t.Members[t.Index(inc)].Name
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, j := range p.joins {
		if j.member.Name == name && j.member.Incarnation != inc && p.cfg.Now().Sub(j.at) < joinFreshness {
			return true
		}
	}
	return false
}

// enter founds a cluster or asks the processes in sight to let us in.
func (p *Publisher) enter(ctx context.Context, now time.Time) error {
	found, err := p.mayFound()
	if err != nil {
		p.cfg.Log.Debug().Err(err).Msg("not founding a cluster")
	}
	if found {
		t := Bootstrap(p.cfg.Self, p.cfg.NewID(), p.cfg.Settings, p.cfg.MaxValue, uint32(now.Unix()))
		p.quorate.Store(int64(now.Sub(p.origin)))
		return p.install(t, "founded the cluster")
	}
	return p.askToJoin(ctx)
}

func (p *Publisher) mayFound() (bool, error) {
	if p.cfg.Alone {
		return true, nil
	}
	if p.cfg.Founders == nil {
		return false, nil
	}
	addresses, err := p.cfg.Founders()
	if err != nil || len(addresses) == 0 {
		return false, err
	}
	sightings := p.cfg.Sightings()
	for _, a := range addresses {
		i := slices.IndexFunc(sightings, func(s Sighting) bool { return s.Gossip == a })
		if i < 0 {
			return false, fmt.Errorf("%w: seed %s was not seen yet", dramnode.ErrUnavailable, a)
		}
		s := sightings[i]
		blank := s.ClusterID == 0
		self := s.Incarnation == p.cfg.Self.Incarnation
		if !blank || !self && (!p.cfg.Peers.Contact(s.Incarnation) || s.Name < p.cfg.Self.Name) {
			return false, nil
		}
	}
	return true, nil
}

// askToJoin proposes ourselves to everybody who has a table; the publisher among them hears it.
func (p *Publisher) askToJoin(ctx context.Context) error {
	proposal := Proposal{Kind: ProposeJoin, Member: p.cfg.Self, MaxValue: p.cfg.MaxValue, Settings: p.cfg.Settings}
	for _, s := range p.cfg.Sightings() {
		if s.ClusterID == 0 || s.Incarnation == p.cfg.Self.Incarnation || !p.cfg.Peers.Contact(s.Incarnation) {
			continue
		}
		_, err := p.call(ctx, probeTimeout, s.Addr, wire.KindPropose, proposal.Append(nil))
		if body, fetchErr := p.call(ctx, probeTimeout, s.Addr, wire.KindTable, nil); fetchErr == nil {
			if adoptErr := p.adopt(body); adoptErr != nil {
				return fmt.Errorf("the cluster at %s: %w", s.Addr, adoptErr)
			} else if p.Table() != nil { // else we are not in it yet
				return nil
			}
		}
		if errors.Is(err, dramnode.ErrInvalid) || errors.Is(err, dramnode.ErrClusterConflict) {
			return fmt.Errorf("the cluster at %s refuses us: %w", s.Addr, err)
		}
		if err != nil {
			p.cfg.Log.Debug().Err(err).Str("peer", s.Addr).Msg("join not heard")
		}
	}
	pause := time.NewTimer(joinInterval)
	defer pause.Stop()
	select {
	case <-ctx.Done():
	case <-pause.C:
	case <-p.kick:
	}
	return nil
}

func (p *Publisher) call(ctx context.Context, limit time.Duration, addr string, kind wire.Kind, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return p.cfg.Peers.Call(ctx, addr, kind, body)
}

// catchUp fetches a newer table if anybody in sight has one.
func (p *Publisher) catchUp(ctx context.Context, t *Table) error {
	for _, s := range p.cfg.Sightings() {
		newer := s.TableVersion > t.Version || p.hint.Load() > t.Version
		if s.ClusterID != t.ClusterID || !newer || s.Incarnation == p.cfg.Self.Incarnation || !p.cfg.Peers.Contact(s.Incarnation) {
			continue
		}
		body, err := p.call(ctx, probeTimeout, s.Addr, wire.KindTable, nil)
		if err != nil {
			continue
		}
		if err := p.adopt(body); err != nil {
			p.cfg.Log.Warn().Err(err).Str("peer", s.Addr).Msg("table not adopted")
		}
		if p.Table().Version > t.Version {
			break
		}
	}
	if v := p.Table().Version; p.hint.Load() > v {
		// Nobody in sight has what the hint promised: a peer that invents versions must not keep us busy.
		p.hint.CompareAndSwap(p.hint.Load(), v)
	}
	return p.failure()
}

// publish plans, asks a majority, plans again with what it said, installs and pushes.
func (p *Publisher) publish(ctx context.Context, t *Table, absent map[uint64]time.Duration) error {
	in := p.input(t, absent)
	if plan := p.planner.Next(t, in); plan.Table == nil && len(absent) == 0 {
		p.noteRefusals(plan.Refused)
		return nil
	}
	votes, agreed, newest := p.probe(ctx, t, in.Joins)
	if newest > t.Version {
		p.Hint(newest)
		return p.catchUp(ctx, t)
	}
	p.noteContacts(votes)
	if majority := len(t.Members)/2 + 1; agreed < majority {
		p.cfg.Log.Debug().Int("agreed", agreed).Int("majority", majority).Msg("no quorum to publish")
		return nil
	}
	plan := p.planner.Next(t, p.input(t, p.observe(t, p.cfg.Now(), true)))
	p.noteRefusals(plan.Refused)
	if plan.Table == nil {
		return nil
	}
	for _, e := range plan.Events {
		p.note(e)
	}
	if err := p.install(plan.Table, "published"); err != nil {
		return err
	}
	p.push(ctx, t, plan.Table)
	return p.failure()
}

func (p *Publisher) input(t *Table, absent map[uint64]time.Duration) Input {
	now := p.cfg.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	in := Input{Self: p.cfg.Self.Incarnation, UnixSeconds: uint32(now.Unix()), Absent: absent}
	for inc, j := range p.joins {
		if now.Sub(j.at) > joinFreshness || t.Index(inc) != None {
			delete(p.joins, inc)
			continue
		}
		if i := t.Named(j.member.Name); i != None && absent[t.Members[i].Incarnation] == 0 && now.Sub(j.since) < nameGrace {
			continue
		}
		in.Joins = append(in.Joins, j.member)
	}
	for inc := range p.leaves {
		if t.Index(inc) == None {
			delete(p.leaves, inc)
			continue
		}
		in.Leaves = append(in.Leaves, inc)
	}
	in.Done, in.Aborted = slices.Clone(p.done), slices.Clone(p.aborted)
	return in
}

// probe asks all members, and joiners that replace one, in parallel. agreed counts names, ours included.
func (p *Publisher) probe(ctx context.Context, t *Table, joins []Member) (votes []vote, agreed int, newest uint64) {
	ask := probe{ClusterID: t.ClusterID, Version: t.Version, Publisher: p.cfg.Self.Incarnation}.append(nil)
	type answer struct {
		vote
		name string
		err  error
	}
	asked := 0
	answers := make(chan answer, len(t.Members)+len(joins))
	for _, m := range slices.Concat(t.Members, joins) {
		if m.Incarnation == p.cfg.Self.Incarnation || !p.cfg.Peers.Contact(m.Incarnation) {
			continue
		}
		asked++
		go func() {
			body, err := p.call(ctx, probeTimeout, m.Addr, wire.KindProbe, ask)
			a := answer{name: m.Name, err: err}
			if err == nil {
				a.vote, a.err = parseVote(body)
			}
			answers <- a
		}()
	}
	agreeing := map[string]bool{p.cfg.Self.Name: true}
	for range asked {
		a := <-answers // each call ends by probeTimeout
		if a.err != nil {
			continue
		}
		votes = append(votes, a.vote)
		newest = max(newest, a.Version)
		if a.Agree && t.Named(a.name) != None {
			agreeing[a.name] = true
		}
	}
	return votes, len(agreeing), newest
}

func (p *Publisher) noteContacts(votes []vote) {
	now := p.cfg.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, v := range votes {
		for _, inc := range v.Contacts {
			if _, member := p.lastSeen[inc]; member {
				p.lastSeen[inc] = now
			}
		}
	}
}

func (p *Publisher) noteRefusals(refused map[uint64]error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for inc, err := range refused {
		p.refused[inc] = err
		delete(p.joins, inc)
	}
	if len(p.refused) > maxMembers {
		clear(p.refused)
	}
}

// push sends the table to every member of it and of the one before, at once. Who misses it learns of
// it by gossip and fetches it.
func (p *Publisher) push(ctx context.Context, before, t *Table) {
	body := p.encodedTable()
	var wg sync.WaitGroup
	sent := map[uint64]bool{p.cfg.Self.Incarnation: true}
	for _, m := range slices.Concat(t.Members, before.Members) {
		if sent[m.Incarnation] || !p.cfg.Peers.Contact(m.Incarnation) {
			continue
		}
		sent[m.Incarnation] = true
		wg.Go(func() {
			if _, err := p.call(ctx, pushTimeout, m.Addr, wire.KindPublish, body); err != nil {
				p.cfg.Log.Debug().Err(err).Str("peer", m.Name).Uint64("version", t.Version).Msg("table not delivered")
			}
		})
	}
	wg.Wait()
}

func (p *Publisher) encodedTable() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.encoded
}

func (p *Publisher) note(text string) {
	p.cfg.Log.Info().Msg(text)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events = append(p.events, Event{At: p.cfg.Now(), Text: text})
	if len(p.events) > maxEvents {
		p.events = slices.Delete(p.events, 0, len(p.events)-maxEvents)
	}
}

// adopt installs a table that a peer sent, if it follows ours.
func (p *Publisher) adopt(body []byte) error {
	t, err := ParseTable(body)
	if err != nil {
		return fmt.Errorf("%w: %w", dramnode.ErrInvalid, err)
	}
	return p.install(t, "adopted")
}

// install makes t current, tells OnTable, and notices what it means for this process.
func (p *Publisher) install(t *Table, how string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.table.Load()
	if err := p.acceptsLocked(old, t); err != nil {
		if errors.Is(err, dramnode.ErrClusterConflict) {
			p.conflicts++
			p.cfg.Log.Error().Err(err).Msg("cluster conflict")
		}
		return err
	}
	if old != nil && t.Version <= old.Version {
		return nil
	}
	if t.Index(p.cfg.Self.Incarnation) == None {
		if old != nil {
			p.fatal = ErrRetired
			p.table.Store(t)
			p.encoded = t.Append(nil)
			p.cfg.OnTable(old, t)
			p.wake()
		}
		return nil
	}
	p.encoded = t.Append(nil)
	p.table.Store(t)
	p.settleLocked(t)
	p.cfg.Log.Debug().Uint64("version", t.Version).Int("members", len(t.Members)).Msg("table " + how)
	p.cfg.OnTable(old, t)
	p.wake()
	return nil
}

func (p *Publisher) acceptsLocked(old, t *Table) error {
	if diff := p.cfg.Settings.Diff(t.Settings); diff != "" {
		return fmt.Errorf("%w: settings differ: %s", dramnode.ErrInvalid, diff)
	}
	if old == nil {
		return nil
	}
	if t.ClusterID != old.ClusterID {
		return fmt.Errorf("%w: a table of cluster %x came to a member of %x", dramnode.ErrClusterConflict, t.ClusterID, old.ClusterID)
	}
	if t.Version == old.Version && !bytes.Equal(t.Append(nil), p.encoded) {
		return fmt.Errorf("%w: two tables of version %d, from publishers %x and %x", dramnode.ErrClusterConflict, t.Version, old.Publisher, t.Publisher)
	}
	return nil
}

// settleLocked forgets reports that t has decided, and processes that left.
func (p *Publisher) settleLocked(t *Table) {
	decided := func(m Move) bool {
		return int(m.Partition) >= len(t.Rows) || t.Rows[m.Partition].MoveID != m.MoveID
	}
	p.done = slices.DeleteFunc(p.done, decided)
	p.aborted = slices.DeleteFunc(p.aborted, decided)
	for inc := range p.lastSeen {
		if t.Index(inc) == None {
			delete(p.lastSeen, inc)
		}
	}
}

// Leave proposes that this process leaves.
func (p *Publisher) Leave(ctx context.Context) error {
	return p.Propose(ctx, Proposal{Kind: ProposeLeave, Member: p.cfg.Self})
}

// Propose hands a proposal to whoever publishes. A nil error means that it was heard, not that it was
// decided: the decision is a later table. Proposing again does no harm.
func (p *Publisher) Propose(ctx context.Context, proposal Proposal) error {
	t := p.Table()
	if t == nil {
		return fmt.Errorf("%w: no table yet", dramnode.ErrUnavailable)
	}
	publisher := p.publisherOf(t, p.absences(t))
	if publisher == p.cfg.Self.Incarnation {
		return p.hear(proposal)
	}
	i := t.Index(publisher)
	if i == None {
		return fmt.Errorf("%w: no publisher in sight", dramnode.ErrNoQuorum)
	}
	_, err := p.call(ctx, probeTimeout, t.Members[i].Addr, wire.KindPropose, proposal.Append(nil))
	return err
}

func (p *Publisher) absences(t *Table) map[uint64]time.Duration {
	now := p.cfg.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	absent := map[uint64]time.Duration{}
	for i := range t.Members {
		inc := t.Members[i].Incarnation
		if seen, ok := p.lastSeen[inc]; ok && !p.cfg.Peers.Contact(inc) {
			absent[inc] = max(now.Sub(seen), 1)
		}
	}
	return absent
}

// hear queues a proposal for the next plan.
func (p *Publisher) hear(proposal Proposal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch proposal.Kind {
	case ProposeJoin:
		if err := p.hearJoinLocked(proposal); err != nil {
			return err
		}
	case ProposeLeave:
		p.leaves[proposal.Member.Incarnation] = true
	case ProposeDone:
		p.done = appendMoves(p.done, proposal.Moves)
	case ProposeAbort:
		p.aborted = appendMoves(p.aborted, proposal.Moves)
	}
	p.wake()
	return nil
}

func (p *Publisher) hearJoinLocked(proposal Proposal) error {
	inc := proposal.Member.Incarnation
	// The joining process reads these texts, so "here" is there.
	if diff := proposal.Settings.Diff(p.cfg.Settings); diff != "" {
		return fmt.Errorf("%w: settings differ: %s", dramnode.ErrInvalid, diff)
	}
	if proposal.MaxValue != p.cfg.MaxValue {
		return fmt.Errorf("%w: settings differ: max-value %d here, %d there", dramnode.ErrInvalid, proposal.MaxValue, p.cfg.MaxValue)
	}
	if err, ok := p.refused[inc]; ok {
		return err
	}
	now := p.cfg.Now()
	j, known := p.joins[inc]
	if !known {
		if len(p.joins) >= maxMembers {
			return fmt.Errorf("%w: %d processes are joining", dramnode.ErrBusy, len(p.joins))
		}
		j.since = now
	}
	j.member, j.at = proposal.Member, now
	p.joins[inc] = j
	return nil
}

func appendMoves(to, moves []Move) []Move {
	for _, m := range moves {
		if !slices.Contains(to, m) && len(to) < maxProposalMoves {
			to = append(to, m)
		}
	}
	return to
}

// Serve answers a control request of a peer. The reply is valid until the next table.
func (p *Publisher) Serve(kind wire.Kind, body []byte) ([]byte, error) {
	switch kind {
	case wire.KindTable:
		if b := p.encodedTable(); b != nil {
			return b, nil
		}
		return nil, fmt.Errorf("%w: this node has no table yet", dramnode.ErrUnavailable)
	case wire.KindPublish:
		return nil, p.adopt(body)
	case wire.KindProbe:
		return p.serveProbe(body)
	case wire.KindPropose:
		return nil, p.servePropose(body)
	case wire.KindMember:
		return nil, fmt.Errorf("%w: %w: settings differ: several replicas here, 1 there", dramnode.ErrInvalid, dramnode.ErrClusterConflict)
	}
	return nil, fmt.Errorf("%w: control request of kind %d", dramnode.ErrInvalid, kind)
}

func (p *Publisher) serveProbe(body []byte) ([]byte, error) {
	ask, err := parseProbe(body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", dramnode.ErrInvalid, err)
	}
	t := p.Table()
	if t == nil {
		return vote{Agree: true}.append(nil), nil
	}
	if t.ClusterID != ask.ClusterID {
		return nil, fmt.Errorf("%w: a probe of cluster %x came to a member of %x", dramnode.ErrClusterConflict, ask.ClusterID, t.ClusterID)
	}
	absent := p.absences(t)
	v := vote{Version: t.Version, Agree: t.Version <= ask.Version && p.publisherOf(t, absent) == ask.Publisher}
	for i := range t.Members {
		if inc := t.Members[i].Incarnation; p.cfg.Peers.Contact(inc) || inc == p.cfg.Self.Incarnation {
			v.Contacts = append(v.Contacts, inc)
		}
	}
	if ask.Version > t.Version {
		p.Hint(ask.Version)
	}
	return v.append(nil), nil
}

func (p *Publisher) servePropose(body []byte) error {
	proposal, err := ParseProposal(body)
	if err != nil {
		return fmt.Errorf("%w: %w", dramnode.ErrInvalid, err)
	}
	t := p.Table()
	if t == nil {
		return fmt.Errorf("%w: this node has no table yet", dramnode.ErrUnavailable)
	}
	if proposal.Kind == ProposeJoin {
		// Every member remembers joins: whoever publishes next may need the proof that an old
		// incarnation of the name is dead.
		p.mu.Lock()
		err := p.hearJoinLocked(proposal)
		p.mu.Unlock()
		p.wake()
		if err != nil {
			return err
		}
	}
	if p.publisherOf(t, p.absences(t)) != p.cfg.Self.Incarnation {
		return fmt.Errorf("%w: not the publisher", dramnode.ErrUnavailable)
	}
	return p.hear(proposal)
}
