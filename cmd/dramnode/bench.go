package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"os"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/config"
	"github.com/dramnode/dramnode/load"
)

// benchFlags are those of bench, as they are written.
type benchFlags struct {
	op, mix, mode, chooser string
	size                   config.Bytes
	connections            int
	via, verify, profile   string
	load                   load.Config
}

func (f *benchFlags) flags() *pflag.FlagSet {
	set := pflag.NewFlagSet("bench", pflag.ContinueOnError)
	set.SortFlags = false
	f.size = 4096
	set.StringVar(&f.op, "op", "", "get, put, or mix (50 % each); without it, put and then get")
	set.StringVar(&f.mix, "mix", "", "YCSB workload a to f, instead of --op")
	set.StringVar(&f.mode, "mode", string(load.Blocking), "callers: blocking, async (callbacks) or batch (MultiGet, MultiPut)")
	set.IntVar(&f.load.Outstanding, "outstanding", 16, "operations under way per connection")
	set.IntVar(&f.connections, "connections", 1, "clients, each with its own connections to the nodes")
	set.Float64Var(&f.load.Rate, "rate", 0, "operations per second to send, whether or not answers come (open loop); 0: as fast as they come")
	set.Var(&f.size, "size", "bytes of each value")
	set.IntVar(&f.load.Keys, "keys", 1000, "number of keys")
	set.StringVar(&f.chooser, "chooser", "", "keys: uniform, zipfian or latest (default: uniform, or what --mix says)")
	set.DurationVar(&f.load.Duration, "duration", 5*time.Second, "to measure")
	set.DurationVar(&f.load.Warmup, "warmup", time.Second, "before, not measured")
	set.StringVar(&f.via, "via", "", "send everything to the node of this `name` or address, which forwards what it does not own")
	set.StringVar(&f.verify, "verify", "on", "compare checksums of what was read: on or off")
	set.StringVar(&f.profile, "cpuprofile", "", "write a profile of this process to `file`")
	set.Uint64Var(&f.load.Seed, "seed", 1, "of all random choices")
	return set
}

func (a *app) benchCommand() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Put a load on the cluster and measure it",
		Long: `Put --keys keys of --size bytes under a prefix of their own, send operations on them for --warmup and
--duration, report rate, latencies and processor time per operation, and delete the keys again.

Without --rate each caller sends its next operation when it has an answer (closed loop). With --rate
operations are due at fixed instants, and latencies count from then, so a stall is charged for everything
that was due meanwhile.`,
		Example: `  dramnode bench --op get --size 64 --mode async --outstanding 64
  dramnode bench --mix b --keys 1000000 --size 1024 --outstanding 64
  dramnode bench --op get --rate 10000 --duration 60s`,
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			configs, err := f.configs()
			if err != nil {
				return err
			}
			limitProcs(f.connections)
			_ = calmMonitor() // without, it is slower, and works
			return a.bench(cmd.Context(), &f, configs)
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().AddFlagSet(f.flags())
	return cmd
}

const maxConnections = 256

// configs returns the loads to measure one after the other, over the same keys. All faults are reported
// at once.
func (f *benchFlags) configs() ([]load.Config, error) {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("%w: %s", dramnode.ErrInvalid, fmt.Sprintf(format, args...)))
	}
	if f.connections < 1 || f.connections > maxConnections {
		fault("--connections %d, want 1 to %d", f.connections, maxConnections)
	}
	if f.verify != "on" && f.verify != "off" {
		fault("--verify %q, want on or off", f.verify)
	}
	c := f.load
	// With 5 digits the keys have 16 bytes.
	c.Prefix = "bench/" + strings.ToLower(rand.Text()[:4]) + "/"
	c.ValueBytes, c.Mode = int(f.size), load.Mode(f.mode)
	mixes, choice, err := f.mixes()
	faults = append(faults, err)
	c.Chooser = load.Choice(or(f.chooser, string(choice)))
	var configs []load.Config
	for _, mix := range mixes {
		c.Mix = mix
		configs = append(configs, c)
	}
	if err == nil {
		faults = append(faults, configs[0].Validate())
	}
	return configs, errors.Join(faults...)
}

func (f *benchFlags) mixes() ([]load.Mix, load.Choice, error) {
	if f.mix != "" {
		if f.op != "" {
			return nil, "", fmt.Errorf("%w: --op and --mix exclude each other", dramnode.ErrInvalid)
		}
		mix, choice, err := load.YCSB(f.mix)
		return []load.Mix{mix}, choice, err
	}
	switch f.op {
	case "":
		return []load.Mix{load.Puts, load.Gets}, load.Uniform, nil
	case "get":
		return []load.Mix{load.Gets}, load.Uniform, nil
	case "put":
		return []load.Mix{load.Puts}, load.Uniform, nil
	case "mix":
		return []load.Mix{load.Half}, load.Uniform, nil
	}
	return nil, "", fmt.Errorf("%w: --op %q, want get, put or mix", dramnode.ErrInvalid, f.op)
}

// bench runs the loads and deletes the keys whatever happened, also after an interrupt.
func (a *app) bench(ctx context.Context, f *benchFlags, configs []load.Config) (err error) {
	clients, err := a.benchClients(ctx, f)
	defer func() {
		for _, c := range clients {
			err = errors.Join(err, c.Close())
		}
	}()
	if err != nil {
		return err
	}
	stores := make([]load.Store, len(clients))
	for i, c := range clients {
		stores[i] = load.Over(c)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		if clearErr := stores[0].Clear(ctx, []byte(configs[0].Prefix)); clearErr != nil {
			err = errors.Join(err, fmt.Errorf("keys %s... are left behind: %w", configs[0].Prefix, clearErr))
		}
	}()
	if err := load.New(configs[0], stores...).Fill(ctx); err != nil {
		return err
	}
	stop, err := startProfile(f.profile)
	if err != nil {
		return err
	}
	rows := make([]benchRow, 0, len(configs))
	for _, c := range configs {
		if ctx.Err() != nil {
			break // interrupted: what was not measured is not shown
		}
		c.ServerCPU = func(ctx context.Context) (time.Duration, error) { return serverCPU(ctx, clients[0]) }
		c.Progress = a.benchProgress(c.Mix.Name)
		before := directOf(clients)
		r := load.New(c, stores...).Run(ctx)
		if c.Progress != nil {
			fmt.Fprint(a.stderr, "\r\x1b[K")
		}
		row := newBenchRow(f, c, r, clients[0])
		if a.direct {
			row.Direct = directOf(clients).since(before)
		}
		rows = append(rows, row)
		if n := r.Failed(); n > 0 {
			err = errors.Join(err, fmt.Errorf("%d of %d operations of %s failed, first: %w", n, n+r.Ops, c.Mix.Name, r.First))
		}
	}
	return errors.Join(err, stop(), a.printBench(rows), ctx.Err())
}

// benchClients opens --connections clients. After an error it returns those that are open.
func (a *app) benchClients(ctx context.Context, f *benchFlags) (clients []*client.Client, err error) {
	via := ""
	if f.via != "" {
		if err := a.with(ctx, func(c *client.Client) (err error) {
			via, err = memberAddr(c, f.via)
			return err
		}); err != nil {
			return nil, err
		}
	}
	for range f.connections {
		c, err := a.open(ctx, func(c *client.Config) {
			c.Via, c.NoVerify = via, f.verify == "off"
			c.Outstanding = f.load.Outstanding
			c.MemoryBytes = benchMemory(int(f.size), f.load.Outstanding)
		})
		if err != nil {
			return clients, err
		}
		clients = append(clients, c)
	}
	for _, c := range clients {
		settleLinks(ctx, c, settled) // one transport from the first operation to the last
	}
	return clients, nil
}

// benchMemory lets all operations under way have a buffer, also a second one that is on its way back.
// Buffers have powers of two.
func benchMemory(valueBytes, outstanding int) int {
	const least, most = 64 << 20, 8 << 30
	if valueBytes == 0 {
		return least
	}
	return max(least, min(most, 2*outstanding<<bits.Len(uint(valueBytes-1))))
}

// memberAddr finds a member by its name or address.
func memberAddr(c *client.Client, node string) (string, error) {
	var names []string
	for _, m := range c.Table().Members {
		if m.Name == node || m.Addr == node {
			return m.Addr, nil
		}
		names = append(names, m.Name)
	}
	return "", fmt.Errorf("%w: --via %q is no member; there are %s", dramnode.ErrInvalid, node, strings.Join(names, ", "))
}

// serverCPU is the processor time of all nodes so far.
func serverCPU(ctx context.Context, c *client.Client) (time.Duration, error) {
	sum := 0.0
	for _, n := range c.Nodes(ctx) {
		if n.Err != nil {
			return 0, n.Err
		}
		sum += n.Info.CPUSeconds
	}
	return time.Duration(sum * float64(time.Second)), nil
}

// startProfile starts a profile of this process if a file is named; stop ends it.
func startProfile(name string) (stop func() error, err error) {
	if name == "" {
		return func() error { return nil }, nil
	}
	file, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		return file.Close()
	}, nil
}

// benchProgress draws on a terminal, and is nil elsewhere.
func (a *app) benchProgress(name string) func(load.Progress) {
	if !terminal(a.stderr) {
		return nil
	}
	return func(p load.Progress) {
		phase, failed := "", ""
		if p.Warming {
			phase = " (warming up)"
		}
		if p.Errors > 0 {
			failed = fmt.Sprintf(", %d failed", p.Errors)
		}
		fmt.Fprintf(a.stderr, "\r%s%s: %.1f of %.1f s, %.0f operations/s%s\x1b[K", name, phase, p.Elapsed.Seconds(), p.Of.Seconds(), p.OpsPerSecond, failed)
	}
}

// A benchRow is one load and its result. CPU times are microseconds per operation.
type benchRow struct {
	Op          string           `json:"op"`
	Mode        load.Mode        `json:"mode"`
	Transport   string           `json:"transport"`
	Size        int              `json:"size"`
	Keys        int              `json:"keys"`
	Chooser     load.Choice      `json:"chooser"`
	Connections int              `json:"connections"`
	Outstanding int              `json:"outstanding"` // per connection
	Rate        float64          `json:"rate,omitempty"`
	Via         string           `json:"via,omitempty"`
	Verify      string           `json:"verify"`
	Ops         int64            `json:"ops"`
	Errors      int64            `json:"errors"`
	ByClass     map[string]int64 `json:"errors_by_class,omitempty"`
	Seconds     float64          `json:"seconds"`
	OpsPerS     float64          `json:"ops_per_s"`
	GBPerS      float64          `json:"gb_per_s"`
	Mean        float64          `json:"mean_us"`
	P50         float64          `json:"p50_us"`
	P99         float64          `json:"p99_us"`
	P999        float64          `json:"p99_9_us"`
	Max         float64          `json:"max_us"`
	ClientCPU   float64          `json:"client_cpu_us_per_op"`
	ServerCPU   float64          `json:"server_cpu_us_per_op,omitempty"` // of all nodes
	Direct      *directRow       `json:"direct,omitempty"`               // with --direct
	GoMaxProcs  int              `json:"gomaxprocs"`
	ByKind      []kindRow        `json:"by_kind,omitempty"` // of a mix
}

// A directRow counts the reads of whole values.
type directRow struct {
	Hits      uint64            `json:"hits"`      // from the owners' memory
	Fallbacks map[string]uint64 `json:"fallbacks"` // the owner was asked, by reason
	Refused   []string          `json:"refused,omitempty"`
}

type kindRow struct {
	Op  string  `json:"op"`
	Ops int64   `json:"ops"`
	P50 float64 `json:"p50_us"`
	P99 float64 `json:"p99_us"`
	Max float64 `json:"max_us"`
}

// directOf sums the clients' counts so far.
func directOf(clients []*client.Client) *directRow {
	sum := &directRow{Fallbacks: map[string]uint64{}}
	refused := map[string]error{}
	for _, c := range clients {
		s := c.DirectStats()
		sum.Hits += s.Hits
		for reason, n := range s.Fallbacks {
			sum.Fallbacks[reason] += n
		}
		maps.Copy(refused, s.Refused)
	}
	for _, addr := range slices.Sorted(maps.Keys(refused)) {
		sum.Refused = append(sum.Refused, addr+": "+refused[addr].Error())
	}
	return sum
}

// since takes away what was counted before.
func (d *directRow) since(before *directRow) *directRow {
	d.Hits -= before.Hits
	for reason, n := range before.Fallbacks {
		if d.Fallbacks[reason] -= n; d.Fallbacks[reason] == 0 {
			delete(d.Fallbacks, reason)
		}
	}
	return d
}

// String is for the table: the share of hits, and what else happened.
func (d *directRow) String() string {
	if d == nil {
		return "off"
	}
	var asked uint64
	for _, n := range d.Fallbacks {
		asked += n
	}
	text := fmt.Sprintf("%.1f %%", 100*float64(d.Hits)/float64(max(1, d.Hits+asked)))
	for _, reason := range slices.Sorted(maps.Keys(d.Fallbacks)) {
		text += fmt.Sprintf(", %s %d", reason, d.Fallbacks[reason])
	}
	return strings.Join(append([]string{text}, d.Refused...), "; ")
}

func newBenchRow(f *benchFlags, c load.Config, r load.Result, cl *client.Client) benchRow {
	row := benchRow{
		Op: c.Mix.Name, Mode: c.Mode, Transport: transports(cl), Size: c.ValueBytes, Keys: c.Keys, Chooser: c.Chooser,
		Connections: f.connections, Outstanding: c.Outstanding, Rate: c.Rate, Via: f.via, Verify: f.verify,
		Ops: r.Ops, Errors: r.Failed(), ByClass: r.Errors, Seconds: r.Took.Seconds(), OpsPerS: r.OpsPerSecond(), GBPerS: r.GBPerSecond(),
		Mean: micros(r.Latencies.Mean()), P50: micros(r.Latencies.Quantile(50)), P99: micros(r.Latencies.Quantile(99)),
		P999: micros(r.Latencies.Quantile(99.9)), Max: micros(r.Latencies.Max()),
		ClientCPU: micros(r.ClientCPUPerOp()), ServerCPU: micros(r.ServerCPUPerOp()), GoMaxProcs: runtime.GOMAXPROCS(0),
	}
	if len(r.ByKind) < 2 {
		return row
	}
	for k := load.Get; k <= load.Modify; k++ {
		if l := r.ByKind[k]; l != nil {
			row.ByKind = append(row.ByKind, kindRow{k.String(), l.Count(), micros(l.Quantile(50)), micros(l.Quantile(99)), micros(l.Max())})
		}
	}
	return row
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// transports names what the client's links really use.
func transports(c *client.Client) string {
	var names []string
	seen := map[string]bool{}
	for _, l := range c.Links() {
		if name := or(l.Peer.Transport, "?"); !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

func (a *app) printBench(rows []benchRow) error {
	return a.print(rows, func(t table) {
		t.row("OP", "MODE", "TRANSPORT", "SIZE", "OUTSTANDING", "OPS/S", "GB/S", "P50 US", "P99 US", "P99.9 US", "MAX US", "CLIENT CPU US", "SERVER CPU US", "ERRORS", "DIRECT")
		for _, r := range rows {
			outstanding := fmt.Sprint(r.Outstanding)
			if r.Connections > 1 {
				outstanding = fmt.Sprintf("%d x %d", r.Connections, r.Outstanding)
			}
			t.row(r.Op, r.Mode, r.Transport, config.Bytes(r.Size), outstanding, fmt.Sprintf("%.0f", r.OpsPerS), fmt.Sprintf("%.3f", r.GBPerS),
				fmt.Sprintf("%.1f", r.P50), fmt.Sprintf("%.1f", r.P99), fmt.Sprintf("%.1f", r.P999), fmt.Sprintf("%.0f", r.Max),
				fmt.Sprintf("%.2f", r.ClientCPU), fmt.Sprintf("%.2f", r.ServerCPU), r.Errors, r.Direct)
			for _, k := range r.ByKind {
				t.row("  "+k.Op, "", "", "", "", "", "", fmt.Sprintf("%.1f", k.P50), fmt.Sprintf("%.1f", k.P99), "", fmt.Sprintf("%.0f", k.Max), "", "", "", "")
			}
		}
	})
}
