package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/cmd/dramnode/tree"
	"github.com/dramnode/dramnode/config"
)

func (a *app) importCommand() *cobra.Command {
	var prefix string
	var o tree.Options
	cmd := &cobra.Command{
		Use:   "import DIR",
		Short: "Store every file below a directory under its relative path",
		Long: `Store every regular file below DIR under its path relative to DIR, with slashes. Each value's checksum
is verified by the node that stores it, and its size and generation are read back. Symbolic links and
special files are skipped and reported; files that cannot be read or stored make the exit code not 0.`,
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := a.bytes(prefix)
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), func(c *client.Client) error {
				o.MaxValueBytes = int64(c.Table().MaxValue)
				return a.copyTree(o, func(o tree.Options) (tree.Summary, error) {
					return tree.Import(cmd.Context(), treeStore{c}, args[0], string(p), o)
				})
			})
		},
	}
	cmd.Flags().StringVar(&prefix, "prefix", "", "put this before each path; usually ends with /")
	parallelFlag(cmd.Flags(), &o)
	return cmd
}

func parallelFlag(f *pflag.FlagSet, o *tree.Options) {
	f.IntVar(&o.Parallel, "parallel", 16, "files under way, and in memory, at once")
}

// copyTree runs an import or export with progress on a terminal, and prints what it did.
func (a *app) copyTree(o tree.Options, run func(tree.Options) (tree.Summary, error)) error {
	if o.Parallel < 1 || o.Parallel > 1024 {
		return fmt.Errorf("%w: --parallel %d, want 1 to 1024", dramnode.ErrInvalid, o.Parallel)
	}
	stop := func() {}
	if terminal(a.stderr) && !a.json {
		p, start := new(tree.Progress), time.Now()
		o.Progress = p
		end := every(200*time.Millisecond, func() {
			drawProgress(a.stderr, p.Files.Load(), p.Bytes.Load(), p.TotalBytes.Load(), time.Since(start))
		})
		stop = func() { end(); fmt.Fprintln(a.stderr) }
	}
	summary, err := run(o)
	stop()
	if err != nil && summary.Took == 0 {
		return err // it did not begin
	}
	return errors.Join(a.printSummary(summary), err, summary.Err())
}

func (a *app) printSummary(s tree.Summary) error {
	type problem struct {
		Path  jsonKey `json:"path"`
		Error string  `json:"error"`
	}
	problems := func(from []tree.Problem) []problem {
		to := make([]problem, len(from))
		for i, p := range from {
			to[i] = problem{jsonKey(p.Path), p.Err.Error()}
		}
		return to
	}
	result := struct {
		Files   int64     `json:"files"`
		Bytes   int64     `json:"bytes"`
		Seconds float64   `json:"seconds"`
		GBps    float64   `json:"gb_per_s"`
		Skipped int64     `json:"skipped"`
		Skips   []problem `json:"skips"`
		Failed  []problem `json:"failed"`
	}{s.Files, s.Bytes, s.Took.Seconds(), s.GBPerSecond(), s.Skipped, problems(s.Skips), problems(s.Failed)}
	return a.print(result, func(t table) {
		for _, p := range result.Skips {
			t.row("skipped", a.show(p.Path), p.Error)
		}
		for _, p := range result.Failed {
			t.row("failed", a.show(p.Path), p.Error)
		}
		t.row("FILES", "BYTES", "SKIPPED", "FAILED", "SECONDS", "GB/S")
		t.row(s.Files, config.Bytes(s.Bytes).Human(), s.Skipped, len(s.Failed), fmt.Sprintf("%.2f", result.Seconds), fmt.Sprintf("%.3f", result.GBps))
	})
}

// treeStore is a client as package tree needs it.
type treeStore struct{ *client.Client }

// Put stores value and reads back that it is what the key has. The owner has compared the checksum.
func (s treeStore) Put(ctx context.Context, key, value []byte) error {
	g, err := s.Client.Put(ctx, key, value)
	if err != nil {
		return err
	}
	meta, err := s.Stat(ctx, key)
	if err != nil {
		return fmt.Errorf("stored, but not found again: %w", err)
	}
	if meta.Generation != g || meta.Size != int64(len(value)) {
		return fmt.Errorf("stored %d bytes as generation %d, but the key has %d bytes of generation %d: somebody else writes here too",
			len(value), g, meta.Size, meta.Generation)
	}
	return nil
}

func (s treeStore) Keys(ctx context.Context, prefix []byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for e, err := range s.List(ctx, client.Query{Prefix: prefix}) {
			if !yield(e.Key, err) {
				return
			}
		}
	}
}

func (s treeStore) Get(ctx context.Context, key []byte) ([]byte, error) {
	v, err := s.Client.Get(ctx, key)
	return v.Bytes, err
}
