package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/cmd/dramnode/load"
	"github.com/dramnode/dramnode/config"
)

func (a *app) benchCommand() *cobra.Command {
	size := config.Bytes(4096)
	c := load.Config{}
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure puts and gets with a closed loop",
		Long: `Fill --keys keys of --size bytes under a prefix of their own, then put and get random ones of them for
--duration each, with --concurrency operations in flight, and delete the keys again. A worker sends its
next operation when the last one is answered, so latencies are those of this concurrency.`,
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.ValueBytes = int(size)
			c.Prefix = "dramnode-bench/" + rand.Text() + "/"
			if err := c.Validate(); err != nil {
				return err
			}
			return a.with(cmd.Context(), func(cl *client.Client) error {
				return a.bench(cmd.Context(), load.New(loadStore{cl}, c))
			})
		},
	}
	cmd.Flags().Var(&size, "size", "bytes of each value")
	cmd.Flags().IntVar(&c.Keys, "keys", 1000, "number of keys")
	cmd.Flags().IntVar(&c.Concurrency, "concurrency", 16, "operations in flight")
	cmd.Flags().DurationVar(&c.Duration, "duration", 5*time.Second, "of each of the two phases")
	return cmd
}

// bench runs the phases and deletes the keys whatever happened, also after an interrupt.
func (a *app) bench(ctx context.Context, b *load.Bench) (err error) {
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		if clearErr := b.Clear(ctx); clearErr != nil {
			err = errors.Join(err, fmt.Errorf("keys %s... are left behind: %w", b.Prefix, clearErr))
		}
	}()
	if err := b.Fill(ctx); err != nil {
		return err
	}
	results := []load.Result{b.Puts(ctx), b.Gets(ctx)}
	if err := a.printBench(b.Config, results); err != nil {
		return err
	}
	for _, r := range results {
		if r.Errors > 0 {
			err = errors.Join(err, fmt.Errorf("%d of %d %ss failed, first: %w", r.Errors, r.Errors+r.Ops, r.Phase, r.First))
		}
	}
	return errors.Join(err, ctx.Err())
}

func (a *app) printBench(c load.Config, results []load.Result) error {
	type row struct {
		Op          string  `json:"op"`
		Size        int     `json:"size"`
		Concurrency int     `json:"concurrency"`
		Ops         int64   `json:"ops"`
		Errors      int64   `json:"errors"`
		Seconds     float64 `json:"seconds"`
		OpsPerS     float64 `json:"ops_per_s"`
		GBPerS      float64 `json:"gb_per_s"`
		P50         float64 `json:"p50_us"`
		P99         float64 `json:"p99_us"`
		P999        float64 `json:"p99_9_us"`
	}
	rows := make([]row, len(results))
	for i, r := range results {
		us := func(percent float64) float64 { return float64(r.Quantile(percent)) / 1e3 }
		rows[i] = row{r.Phase, c.ValueBytes, c.Concurrency, r.Ops, r.Errors, r.Took.Seconds(), r.OpsPerSecond(), r.GBPerSecond(), us(50), us(99), us(99.9)}
	}
	return a.print(rows, func(t table) {
		t.row("OP", "SIZE", "CONCURRENCY", "OPS", "ERRORS", "OPS/S", "GB/S", "P50 US", "P99 US", "P99.9 US")
		for _, r := range rows {
			t.row(r.Op, config.Bytes(r.Size), r.Concurrency, r.Ops, r.Errors, fmt.Sprintf("%.0f", r.OpsPerS), fmt.Sprintf("%.3f", r.GBPerS),
				fmt.Sprintf("%.0f", r.P50), fmt.Sprintf("%.0f", r.P99), fmt.Sprintf("%.0f", r.P999))
		}
	})
}

// loadStore is a client as package load needs it.
type loadStore struct{ *client.Client }

func (s loadStore) Put(ctx context.Context, key, value []byte) error {
	_, err := s.Client.Put(ctx, key, value)
	return err
}

func (s loadStore) GetInto(ctx context.Context, key, dst []byte) (int, error) {
	v, err := s.Client.GetInto(ctx, key, dst)
	return len(v.Bytes), err
}

func (s loadStore) Delete(ctx context.Context, key []byte) error { return s.Client.Delete(ctx, key) }
