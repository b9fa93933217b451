package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/config"
	"github.com/dramnode/dramnode/control"
)

func (a *app) partitionsCommand() *cobra.Command {
	var all, accept bool
	cmd := &cobra.Command{
		Use:   "partitions",
		Short: "Show how many partitions each node owns, gives and gets, how many copies there are, and what was lost",
		Args:  usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(c *client.Client) error {
				if accept {
					return a.acceptLosses(cmd.Context(), c)
				}
				var health *control.Health
				if leader := leaderOf(c.Nodes(cmd.Context())); leader != nil {
					health = leader.Info.Replication.Health
				}
				return a.printPartitions(c.Table(), health, all)
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "show every partition")
	cmd.Flags().BoolVar(&accept, "accept-loss", false, "accept all losses so far; with --on-loss refuse, lost partitions start again, empty")
	cmd.MarkFlagsMutuallyExclusive("all", "accept-loss")
	return cmd
}

func (a *app) acceptLosses(ctx context.Context, c *client.Client) error {
	n, err := c.AcceptLosses(ctx)
	if err != nil {
		return err
	}
	result := struct {
		Accepted int `json:"accepted"` // partitions
	}{n}
	return a.print(result, func(out table) { out.row(fmt.Sprintf("losses of %d partitions accepted", n)) })
}

type partitionRow struct {
	Partition int      `json:"partition"`
	Owner     string   `json:"owner"`
	Backups   []string `json:"backups,omitempty"`
	Epoch     uint32   `json:"epoch"`
	MovesTo   string   `json:"moves_to,omitempty"`
	Losses    uint32   `json:"losses"`
}

type partitionShare struct {
	Node    string `json:"node"`
	Addr    string `json:"addr"`
	Owns    int    `json:"owns"`
	Copies  int    `json:"copies"` // in sync, those it owns too
	Gives   int    `json:"gives"`  // of those it owns, under way to another node
	Gets    int    `json:"gets"`
	Leaving bool   `json:"leaving,omitempty"`
}

// A partitionSummary counts a table's rows by member.
type partitionSummary struct {
	TableVersion uint64           `json:"table_version"`
	Partitions   int              `json:"partitions"`
	Routing      string           `json:"routing"`
	Replicas     int              `json:"replicas"` // wanted copies
	Moves        int              `json:"moves"`
	Losses       uint64           `json:"losses"`
	Health       *control.Health  `json:"health,omitempty"` // as the control plane's leader says
	Nodes        []partitionShare `json:"nodes"`
	Rows         []partitionRow   `json:"rows,omitempty"`
}

func (a *app) printPartitions(t *control.Table, health *control.Health, all bool) error {
	s := summarize(t)
	rows := s.Rows
	if s.Health = health; !all {
		s.Rows = nil
	}
	return a.print(s, func(out table) {
		out.row("NODE", "ADDRESS", "OWNS", "SHARE", "COPIES", "GIVES", "GETS")
		for _, n := range s.Nodes {
			out.row(n.Node, n.Addr, n.Owns, fmt.Sprintf("%.1f %%", 100*float64(n.Owns)/float64(max(s.Partitions, 1))), n.Copies, n.Gives, n.Gets)
		}
		out.row(fmt.Sprintf("%d partitions (%s), table version %s, %d on the move, %d losses", s.Partitions, s.Routing, showVersion(t), s.Moves, s.Losses))
		out.row(fmt.Sprintf("%d copies wanted; %s", s.Replicas, showHealth(health)))
		if all {
			out.row("PARTITION", "OWNER", "BACKUPS", "EPOCH", "MOVES TO", "LOSSES")
			for _, r := range rows {
				out.row(r.Partition, r.Owner, or(strings.Join(r.Backups, ","), "-"), r.Epoch, or(r.MovesTo, "-"), r.Losses)
			}
		}
	})
}

// showVersion splits the version of a table into its era and the version in that.
func showVersion(t *control.Table) string {
	return fmt.Sprintf("%d.%d", t.Version>>control.EraShift, t.Version&(1<<control.EraShift-1))
}

func showHealth(h *control.Health) string {
	switch {
	case h == nil:
		return "no node leads the control plane, or it does not answer"
	case h.UnderReplicated+h.Inactive+h.Unaccepted == 0:
		return "all partitions have them"
	}
	return fmt.Sprintf("%d partitions have fewer (%s to copy), %d do not serve, %d of them have no copy left that may, losses of %d are not accepted",
		h.UnderReplicated, config.Bytes(h.MissingBytes).Human(), h.Inactive, h.Offline, h.Unaccepted)
}

func summarize(t *control.Table) *partitionSummary {
	s := &partitionSummary{TableVersion: t.Version, Partitions: len(t.Rows), Routing: t.Settings.Strategy.String(), Replicas: int(t.Replicas), Losses: t.Losses()}
	owned, copies := t.Owned(), t.Copies()
	for i, m := range t.Members {
		s.Nodes = append(s.Nodes, partitionShare{Node: m.Name, Addr: m.Addr, Owns: owned[i], Copies: copies[i], Leaving: m.Leaving})
	}
	for p, r := range t.Rows {
		row := partitionRow{Partition: p, Owner: t.Members[r.Owner].Name, Epoch: r.Epoch, Losses: r.Losses}
		for _, b := range r.Backups {
			if b != control.None {
				row.Backups = append(row.Backups, t.Members[b].Name)
			}
		}
		if r.MoveTo != control.None {
			row.MovesTo = t.Members[r.MoveTo].Name
			s.Nodes[r.Owner].Gives++
			s.Nodes[r.MoveTo].Gets++
			s.Moves++
		}
		s.Rows = append(s.Rows, row)
	}
	return s
}
