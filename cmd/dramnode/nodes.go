package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/config"
	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/transport"
)

func (a *app) nodesCommand() *cobra.Command {
	var links, memory bool
	cmd := &cobra.Command{
		Use:   "nodes",
		Short: "Show the members of the cluster",
		Long: `Show the members of the cluster as the table has them, with what each says of itself. TRANSPORT and RTT
are those of this command's own connection to the node, for which it waits until shared memory is in use
or known not to work and a heartbeat came back; with --json each node also lists its links.
A node that does not answer is shown as unreachable; that is no error of this command.`,
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(c *client.Client) error {
				nodes := c.Nodes(cmd.Context())
				if memory && !a.json {
					return a.printMemory(nodes)
				}
				if links && !a.json {
					return a.printLinks(nodes)
				}
				return a.printNodes(nodes, settleLinks(cmd.Context(), c, measured))
			})
		},
	}
	cmd.Flags().BoolVar(&links, "links", false, "show the links between the nodes instead (JSON always has them)")
	cmd.Flags().BoolVar(&memory, "memory", false, "show where the nodes' memory is, by length of block, instead (JSON always has it)")
	cmd.MarkFlagsMutuallyExclusive("links", "memory")
	return cmd
}

// printMemory shows what each class of blocks holds, and how much of that is rounding and free slots.
func (a *app) printMemory(nodes []client.Node) error {
	return a.print(nil, func(t table) {
		t.row("NODE", "SLOT", "HELD", "ASKED", "FREE SLOTS", "BLOCKS", "UNUSED")
		for _, n := range nodes {
			if n.Err != nil {
				t.row(n.Name, "-", "-", "-", "-", "-", n.Err)
				continue
			}
			for _, c := range n.Info.Memory.Classes {
				slot := "pages"
				if c.Slot > 0 {
					slot = fmt.Sprint(c.Slot)
				}
				t.row(n.Name, slot, config.Bytes(c.Held).Human(), config.Bytes(c.Asked).Human(), c.Slots-c.Blocks, c.Blocks, percent(c.Held-c.Asked, c.Held))
			}
			m := &n.Info.Memory
			t.row(n.Name, "all", config.Bytes(m.Used).Human(), config.Bytes(m.Asked).Human(), "-", "-", percent(m.Used-m.Asked, m.Used))
			if r := &n.Info.Records; r.Bytes > 0 {
				t.row(n.Name, "records", config.Bytes(r.Bytes).Human(), "-", "-", "-", "-")
			}
			if m.Evictions > 0 {
				t.row(n.Name, "evicted", config.Bytes(m.EvictedBytes).Human(), "-", "-", m.Evictions, "-")
			}
		}
	})
}

func percent(part, whole int64) string {
	if whole == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f %%", float64(part)*100/float64(whole))
}

const (
	settlePoll  = 10 * time.Millisecond
	settleLimit = time.Second
)

// settleLinks waits until all links are as wanted, settleLimit at most, and returns them as they are then.
func settleLinks(ctx context.Context, c *client.Client, wanted func(transport.LinkInfo) bool) []transport.LinkInfo {
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	for {
		links := c.Links()
		if !slices.ContainsFunc(links, func(l transport.LinkInfo) bool { return !wanted(l) }) {
			return links
		}
		select {
		case <-ctx.Done():
			return links
		case <-time.After(settlePoll):
		}
	}
}

// settled tells that no connection by shared memory is being made any more.
func settled(l transport.LinkInfo) bool { return l.Fallback != transport.FallbackSoon }

// measured tells that the first heartbeat is back too, where there is somebody to answer it.
func measured(l transport.LinkInfo) bool {
	return settled(l) && (l.State != transport.LinkOpen || l.RoundTrip > 0)
}

// printLinks shows who reaches whom, and how.
func (a *app) printLinks(nodes []client.Node) error {
	return a.print(nil, func(t table) {
		t.row("FROM", "TO", "ADDRESS", "STATE", "TRANSPORT", "RTT", "OPENED", "PENDING", "ERROR")
		for _, n := range nodes {
			for _, l := range n.Info.Links {
				rtt := time.Duration(l.RoundTripMicros * float64(time.Microsecond))
				t.row(n.Name, or(l.Peer, "-"), l.Addr, l.State, showTransport(l.Transport, l.Fallback), showRTT(rtt), l.Opened, l.Pending, or(l.Error, "-"))
			}
			if n.Err != nil {
				t.row(n.Name, "-", "-", "-", "-", "-", "-", "-", n.Err)
			}
		}
	})
}

// showTransport is what carries a connection, and on one host why it is not shared memory.
func showTransport(name, fallback string) string {
	if fallback != "" {
		return name + " (no shm: " + fallback + ")"
	}
	return or(name, "-")
}

type nodeRow struct {
	Name        string             `json:"name"`
	Incarnation string             `json:"incarnation"`
	Addr        string             `json:"addr"`
	Zone        string             `json:"zone,omitempty"`
	State       string             `json:"state"` // ready, leaving, not ready or unreachable
	Error       string             `json:"error,omitempty"`
	Partitions  int                `json:"partitions"`
	Copies      int                `json:"copies"`
	Transport   string             `json:"transport,omitempty"`
	Fallback    string             `json:"fallback,omitempty"` // why not shared memory, with a node on this host
	RoundTripUS float64            `json:"rtt_us,omitempty"`
	Info        *control.NodeInfo  `json:"info,omitempty"` // what the node says of itself
	link        transport.LinkInfo // ours
}

func (a *app) printNodes(nodes []client.Node, links []transport.LinkInfo) error {
	rows := make([]nodeRow, len(nodes))
	for i, n := range nodes {
		rows[i] = rowOf(n)
		for _, l := range links {
			if l.Addr == n.Addr && l.State == transport.LinkOpen {
				rows[i].Transport, rows[i].Fallback = l.Peer.Transport, l.Fallback
				rows[i].link, rows[i].RoundTripUS = l, float64(l.RoundTrip)/float64(time.Microsecond)
			}
		}
	}
	return a.print(rows, func(t table) {
		t.row("NAME", "INCARNATION", "ADDRESS", "ZONE", "STATE", "PARTITIONS", "COPIES", "ENTRIES", "USED", "LIMIT", "TRANSPORT", "RTT", "VERSION")
		for _, r := range rows {
			entries, used, limit, version := "-", "-", "-", "-"
			if r.Info != nil {
				entries, version = fmt.Sprint(r.Info.Entries), r.Info.Version
				used, limit = config.Bytes(r.Info.Memory.Used).Human(), config.Bytes(r.Info.Memory.Limit).Human()
			}
			t.row(r.Name, r.Incarnation, r.Addr, or(r.Zone, "-"), r.State, r.Partitions, r.Copies, entries, used, limit,
				showTransport(r.Transport, r.Fallback), showRTT(r.link.RoundTrip), version)
		}
		for _, r := range rows {
			if r.Error != "" {
				t.row(r.Name + ": " + r.Error)
			}
		}
		if leader := leaderOf(nodes); leader != nil {
			r := leader.Info.Replication
			t.row(fmt.Sprintf("%s leads, era %d, leases of %v", leader.Name, r.Era, seconds(r.LeaseSeconds)))
		}
	})
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// leaderOf returns the node that says it leads the control plane; nil when none does.
func leaderOf(nodes []client.Node) *client.Node {
	for i := range nodes {
		if nodes[i].Info.Replication.Leading {
			return &nodes[i]
		}
	}
	return nil
}

func rowOf(n client.Node) nodeRow {
	row := nodeRow{Name: n.Name, Incarnation: fmt.Sprintf("%016x", n.Incarnation), Addr: n.Addr, Zone: n.Zone, State: "ready", Partitions: n.Owned, Copies: n.Copies}
	switch {
	case n.Err != nil:
		row.State, row.Error = "unreachable", n.Err.Error()
		return row
	case n.Leaving:
		row.State = "leaving"
	case !n.Info.Ready:
		row.State = "not ready"
	}
	row.Info = &n.Info
	return row
}

func showRTT(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	return d.Round(time.Microsecond).String()
}
