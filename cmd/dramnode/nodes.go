package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/config"
	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/transport"
)

func (a *app) nodesCommand() *cobra.Command {
	var links bool
	cmd := &cobra.Command{
		Use:   "nodes",
		Short: "Show the members of the cluster",
		Long: `Show the members of the cluster as the table has them, with what each says of itself. TRANSPORT and RTT
are those of this command's own connection to the node; with --json each node also lists its links.
A node that does not answer is shown as unreachable; that is no error of this command.`,
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(c *client.Client) error {
				nodes := c.Nodes(cmd.Context())
				if links && !a.json {
					return a.printLinks(nodes)
				}
				return a.printNodes(nodes, c.Links())
			})
		},
	}
	cmd.Flags().BoolVar(&links, "links", false, "show the links between the nodes instead (JSON always has them)")
	return cmd
}

// printLinks shows who reaches whom, and how.
func (a *app) printLinks(nodes []client.Node) error {
	return a.print(nil, func(t table) {
		t.row("FROM", "TO", "ADDRESS", "STATE", "TRANSPORT", "RTT", "OPENED", "PENDING", "ERROR")
		for _, n := range nodes {
			for _, l := range n.Info.Links {
				rtt := time.Duration(l.RoundTripMicros * float64(time.Microsecond))
				t.row(n.Name, or(l.Peer, "-"), l.Addr, l.State, or(l.Transport, "-"), showRTT(rtt), l.Opened, l.Pending, or(l.Error, "-"))
			}
			if n.Err != nil {
				t.row(n.Name, "-", "-", "-", "-", "-", "-", "-", n.Err)
			}
		}
	})
}

type nodeRow struct {
	Name        string             `json:"name"`
	Incarnation string             `json:"incarnation"`
	Addr        string             `json:"addr"`
	Zone        string             `json:"zone,omitempty"`
	State       string             `json:"state"` // ready, leaving, not ready or unreachable
	Error       string             `json:"error,omitempty"`
	Partitions  int                `json:"partitions"`
	Transport   string             `json:"transport,omitempty"`
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
				rows[i].link, rows[i].Transport, rows[i].RoundTripUS = l, l.Peer.Transport, float64(l.RoundTrip)/float64(time.Microsecond)
			}
		}
	}
	return a.print(rows, func(t table) {
		t.row("NAME", "INCARNATION", "ADDRESS", "ZONE", "STATE", "PARTITIONS", "ENTRIES", "USED", "LIMIT", "TRANSPORT", "RTT", "VERSION")
		for _, r := range rows {
			entries, used, limit, version := "-", "-", "-", "-"
			if r.Info != nil {
				entries, version = fmt.Sprint(r.Info.Entries), r.Info.Version
				used, limit = config.Bytes(r.Info.Memory.Used).Human(), config.Bytes(r.Info.Memory.Limit).Human()
			}
			t.row(r.Name, r.Incarnation, r.Addr, or(r.Zone, "-"), r.State, r.Partitions, entries, used, limit,
				or(r.Transport, "-"), showRTT(r.link.RoundTrip), version)
		}
		for _, r := range rows {
			if r.Error != "" {
				t.row(r.Name + ": " + r.Error)
			}
		}
	})
}

func rowOf(n client.Node) nodeRow {
	row := nodeRow{Name: n.Name, Incarnation: fmt.Sprintf("%016x", n.Incarnation), Addr: n.Addr, Zone: n.Zone, State: "ready", Partitions: n.Owned}
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
