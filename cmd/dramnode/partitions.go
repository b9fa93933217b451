package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/control"
)

func (a *app) partitionsCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "partitions",
		Short: "Show how many partitions each node owns, gives and gets, and what was lost",
		Args:  usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(c *client.Client) error {
				return a.printPartitions(c.Table(), all)
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "show every partition")
	return cmd
}

type partitionRow struct {
	Partition int      `json:"partition"`
	Owner     string   `json:"owner"`
	Backups   []string `json:"backups,omitempty"` // that have every acknowledged write too
	Epoch     uint32   `json:"epoch"`
	MovesTo   string   `json:"moves_to,omitempty"`
	Losses    uint32   `json:"losses"`
}

type partitionShare struct {
	Node    string `json:"node"`
	Addr    string `json:"addr"`
	Owns    int    `json:"owns"`
	Gives   int    `json:"gives"` // of those it owns, under way to another node
	Gets    int    `json:"gets"`
	Copies  int    `json:"copies"` // of partitions, those that it owns and those that it backs up
	Leaving bool   `json:"leaving,omitempty"`
}

// A partitionSummary is a table, counted.
type partitionSummary struct {
	TableVersion uint64           `json:"table_version"`
	Partitions   int              `json:"partitions"`
	Routing      string           `json:"routing"`
	Replicas     uint8            `json:"replicas"` // wanted copies; 0: single ones
	Short        int              `json:"short"`    // partitions with fewer copies than wanted
	Moves        int              `json:"moves"`
	Losses       uint64           `json:"losses"`
	Nodes        []partitionShare `json:"nodes"`
	Rows         []partitionRow   `json:"rows,omitempty"`
}

func (a *app) printPartitions(t *control.Table, all bool) error {
	s := summarize(t)
	rows := s.Rows
	if !all {
		s.Rows = nil
	}
	return a.print(s, func(out table) {
		out.row("NODE", "ADDRESS", "OWNS", "SHARE", "GIVES", "GETS", "COPIES")
		for _, n := range s.Nodes {
			out.row(n.Node, n.Addr, n.Owns, fmt.Sprintf("%.1f %%", 100*float64(n.Owns)/float64(max(len(rows), 1))), n.Gives, n.Gets, n.Copies)
		}
		line := fmt.Sprintf("%d partitions (%s), table version %d, %d on the move, %d losses", len(rows), s.Routing, t.Version, s.Moves, s.Losses)
		if s.Replicas > 0 {
			line += fmt.Sprintf(", %d with fewer than %d copies", s.Short, s.Replicas)
		}
		out.row(line)
		if all {
			out.row("PARTITION", "OWNER", "BACKUPS", "EPOCH", "MOVES TO", "LOSSES")
			for _, r := range rows {
				out.row(r.Partition, r.Owner, or(strings.Join(r.Backups, ","), "-"), r.Epoch, or(r.MovesTo, "-"), r.Losses)
			}
		}
	})
}

// summarize counts a table's rows by member.
func summarize(t *control.Table) partitionSummary {
	s := partitionSummary{TableVersion: t.Version, Partitions: len(t.Rows), Routing: t.Settings.Strategy.String(), Replicas: t.Replicas}
	for _, m := range t.Members {
		s.Nodes = append(s.Nodes, partitionShare{Node: m.Name, Addr: m.Addr, Leaving: m.Leaving})
	}
	for p, r := range t.Rows {
		row := partitionRow{Partition: p, Owner: t.Members[r.Owner].Name, Epoch: r.Epoch, Losses: r.Losses}
		s.Nodes[r.Owner].Owns++
		s.Nodes[r.Owner].Copies++
		for _, b := range r.Backups {
			if b != control.None {
				row.Backups = append(row.Backups, t.Members[b].Name)
				s.Nodes[b].Copies++
			}
		}
		if 1+len(row.Backups) < int(t.Replicas) {
			s.Short++
		}
		s.Losses += uint64(r.Losses)
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
