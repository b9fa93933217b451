package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/internal/cputime"
	"github.com/dramnode/dramnode/ring"
	"github.com/dramnode/dramnode/storage"
	"github.com/dramnode/dramnode/transport"
)

const (
	httpHeaderTimeout = 5 * time.Second
	httpStopTimeout   = time.Second

	operatorTimeout = time.Minute
	operatorMargin  = 500 * time.Millisecond // for the reply, before the operator gives up
)

// serveControl answers what one node asks another about the table.
func (n *Node) serveControl(r *request) {
	reply, err := n.plane.serve(r.h.Kind, r.body)
	n.replyBytes(r, reply, err)
}

func (n *Node) serveInfo(r *request) {
	reply, err := json.Marshal(n.Info())
	n.replyBytes(r, reply, err)
}

// serveAccept accepts, in an operator's name, what was lost so far.
func (n *Node) serveAccept(r *request) {
	n.serveOperator(r, func(ctx context.Context) ([]byte, error) {
		accepted, err := n.plane.accept(ctx)
		return strconv.AppendInt(nil, int64(accepted), 10), err
	})
}

// serveRecover founds the control plane anew on an operator's word.
func (n *Node) serveRecover(r *request) {
	n.serveOperator(r, func(ctx context.Context) ([]byte, error) {
		var dead []string
		if err := json.Unmarshal(r.body, &dead); err != nil || len(dead) == 0 || len(dead) > ring.MaxMembers {
			return nil, fmt.Errorf("%w: no list of dead nodes: %v", dramnode.ErrInvalid, err)
		}
		recovery, err := n.plane.refound(ctx, dead)
		if err != nil {
			return nil, err
		}
		return json.Marshal(recovery)
	})
}

// serveOperator does what an operator wants of the control plane, within the operator's time.
func (n *Node) serveOperator(r *request, do func(context.Context) ([]byte, error)) {
	ctx, cancel := context.WithTimeout(n.context, operatorTimeout)
	defer cancel()
	if !r.until().IsZero() {
		ctx, cancel = context.WithDeadline(ctx, r.until().Add(-operatorMargin))
		defer cancel()
	}
	reply, err := do(ctx)
	n.drop(r)
	n.replyBytes(r, reply, err)
}

func (n *Node) replyBytes(r *request, reply []byte, err error) {
	var body transport.Body
	if err == nil {
		body, err = n.scratch.body(reply)
	}
	if err != nil {
		n.fail(r, err)
		return
	}
	n.reply(r, &answer{body: body})
}

// serveHTTP serves health, readiness and info until ctx ends.
func (n *Node) serveHTTP(ctx context.Context) error {
	if n.http == nil {
		<-ctx.Done()
		return nil
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if reason := n.unready(); reason != "" {
			http.Error(w, reason, http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	mux.HandleFunc("GET /info", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(n.Info()); err != nil {
			n.cfg.Log.Debug().Err(err).Msg("info not sent")
		}
	})
	mux.Handle("GET /debug/pprof/", fromLoopback(http.HandlerFunc(pprof.Index)))
	mux.Handle("GET /debug/pprof/profile", fromLoopback(http.HandlerFunc(pprof.Profile)))
	mux.Handle("GET /debug/pprof/trace", fromLoopback(http.HandlerFunc(pprof.Trace)))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: httpHeaderTimeout}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		stop, cancel := context.WithTimeout(context.Background(), httpStopTimeout)
		defer cancel()
		if err := server.Shutdown(stop); err != nil {
			server.Close()
		}
	}()
	err := server.Serve(n.http)
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("http: %w", err)
	}
	<-stopped
	return nil
}

// fromLoopback serves h to processes of this host only: profiles tell too much, and cost too much.
func fromLoopback(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if addr, err := netip.ParseAddrPort(r.RemoteAddr); err != nil || !addr.Addr().Unmap().IsLoopback() {
			http.Error(w, "profiles are for this host only", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// unready says why this node does not take requests, "" when it does.
func (n *Node) unready() string {
	v := n.view.Load()
	switch {
	case v == nil:
		return "no table yet: " + n.waitingFor()
	case v.Self == control.None:
		return "not a member"
	case n.leaving.Load():
		return "leaving"
	case !n.plane.member.Leased():
		return errNoLease.Error()
	}
	return ""
}

// waitingFor tells what a node without table waits for.
func (n *Node) waitingFor() string {
	seen := 0
	for _, m := range n.gossip.Members() {
		if m.Alive && m.Incarnation != n.self.Incarnation {
			seen++
		}
	}
	if refusals := n.gossip.Status().Refusals; seen == 0 && len(refusals) > 0 {
		return refusals[0].Err.Error()
	}
	if seen == 0 {
		return "no seed answers at " + strings.Join(n.cfg.Join, ", ")
	}
	return fmt.Sprintf("%d other nodes are in sight", seen)
}

// Info returns what this node tells people about itself.
func (n *Node) Info() control.NodeInfo {
	stats := n.store.Stats()
	info := control.NodeInfo{
		Name: n.self.Name, Incarnation: hex(n.self.Incarnation), Addr: n.self.Addr, Zone: n.self.Zone,
		Version: n.cfg.Version, ClusterName: n.cfg.ClusterName,
		Ready: n.unready() == "", Leaving: n.leaving.Load(), Quorate: n.plane.member.Leased(),
		UptimeSeconds: time.Since(n.started).Seconds(), CPUSeconds: cputime.Process().Seconds(),
		Memory:  n.memoryInfo(&stats),
		Records: n.replicas.recordsInfo(),
		Entries: stats.Entries, ValueBytes: stats.ValueBytes, Partitions: n.owned(),
		Conflicts: n.plane.member.Status().Conflicts + uint64(len(n.gossip.Conflicts())), Forwarded: n.forwarded.Load(),
		Counters: n.counters.snapshot(), Events: n.plane.events(), Replication: n.plane.info(),
	}
	if t := n.plane.table(); t != nil {
		info.ClusterID, info.TableVersion, info.Losses = hex(t.ClusterID), t.Version, t.Losses()
		info.Members = len(t.Members)
		for _, row := range t.Rows {
			if row.MoveID != 0 {
				info.Moving++
			}
		}
		if i := t.Index(n.self.Incarnation); i != control.None {
			info.Copies = t.Copies()[i]
			info.OwnedEntries = n.ownedEntries(t, i)
		}
	}
	for addr, l := range n.peers.infos() {
		info.Links = append(info.Links, linkInfo(addr, l))
	}
	slices.SortFunc(info.Links, func(a, b control.LinkInfo) int { return strings.Compare(a.Addr, b.Addr) })
	for _, m := range n.gossip.Members() {
		info.Gossip = append(info.Gossip, control.GossipInfo{Name: m.Name, Incarnation: hex(m.Incarnation), Addr: m.Addr, Alive: m.Alive})
	}
	if s, ok := n.network.(interface{ Counters() map[string]uint64 }); ok {
		info.Transport = s.Counters()
	}
	return info
}

// ownedEntries counts the entries of the partitions that the member self, which is this node, owns in t.
func (n *Node) ownedEntries(t *control.Table, self uint16) (entries int) {
	for p := range t.Rows {
		if t.Rows[p].Owner != self {
			continue
		}
		if stats, err := n.store.PartitionStats(uint16(p)); err == nil {
			entries += stats.Entries
		}
	}
	return entries
}

func (n *Node) memoryInfo(s *storage.Stats) control.MemoryInfo {
	m := control.MemoryInfo{
		Limit: s.TotalBytes, Used: s.UsedBytes, Asked: s.RequestedBytes, LongestFree: s.LongestFreeBytes,
		Leased: s.LeasedBytes, Reserved: s.ReservedBytes,
		Eviction: n.cfg.Eviction.String(), Evictions: s.Evictions, EvictedBytes: s.EvictedBytes,
	}
	for _, c := range append(s.Classes, s.Runs) {
		if c.Blocks > 0 {
			m.Classes = append(m.Classes, control.ClassInfo{Slot: c.SlotBytes, Held: c.HeldBytes, Asked: c.RequestedBytes, Blocks: c.Blocks, Slots: c.Slots})
		}
	}
	return m
}

func linkInfo(addr string, l transport.LinkInfo) control.LinkInfo {
	info := control.LinkInfo{
		Peer: l.Peer.Name, Addr: addr, State: l.State.String(), Transport: l.Peer.Transport, Fallback: l.Fallback,
		RoundTripMicros: float64(l.RoundTrip) / float64(time.Microsecond), Opened: l.Opened, Pending: l.Pending,
	}
	if l.Err != nil {
		info.Error = l.Err.Error()
	}
	return info
}

func hex(id uint64) string { return fmt.Sprintf("%016x", id) }

// Table returns the newest table, nil before the first.
func (n *Node) Table() *control.Table { return n.plane.table() }

// Addr is where peers and clients reach this node.
func (n *Node) Addr() string { return n.self.Addr }

// GossipAddr is where its gossip listens, "" before Run.
func (n *Node) GossipAddr() string { return n.gossip.Addr() }

// HTTPAddr is where health and info are served, "" for nowhere.
func (n *Node) HTTPAddr() string {
	if n.http == nil {
		return ""
	}
	return n.http.Addr().String()
}
