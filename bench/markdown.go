package main

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A section is the points of one transport and operation that vary in one thing.
type section struct {
	kind          kind
	transport, op string
	points        []point
}

// A kind of section, with what it is called in titles and in names of files.
type kind struct{ title, file string }

var (
	single = kind{"one at a time", "1"}
	many   = kind{"many under way", "many"}
	grid   = kind{"64 B over connections and pipelines", "grid"}
)

// holds reports whether p belongs to a section of this kind.
func (k kind) holds(p point) bool {
	switch k {
	case single:
		return p.inSeries() && p.single()
	case many:
		return p.inSeries() && !p.single()
	}
	return p.inGrid()
}

func (s section) title() string { return fmt.Sprintf("%s, %s, %s", s.op, s.transport, s.kind.title) }

// plotName is the file of its plot.
func (s section) plotName() string {
	return fmt.Sprintf("performance-%s-%s-%s.svg", s.transport, s.op, s.kind.file)
}

// sections groups the points that have results, in the order of the grid.
func (r *report) sections() []section {
	has := map[point]bool{}
	for _, x := range r.Results {
		has[x.point] = true
	}
	var all []section
	for _, transport := range transports {
		for _, k := range []kind{single, many, grid} {
			for _, op := range ops {
				s := section{k, transport, op, nil}
				for p := range has {
					if p.Transport == transport && p.Op == op && k.holds(p) {
						s.points = append(s.points, p)
					}
				}
				slices.SortFunc(s.points, order)
				// The grid repeats points of the others: it needs one of its own.
				if len(s.points) > 0 && (k != grid || slices.ContainsFunc(s.points, func(p point) bool { return !p.inSeries() })) {
					all = append(all, s)
				}
			}
		}
	}
	return all
}

// order puts the series' own depth, the deepest, before others of the same length.
func order(a, b point) int {
	depth := cmp.Compare(b.Outstanding, a.Outstanding)
	if a.inGrid() && b.inGrid() {
		depth = -depth
	}
	return cmp.Or(cmp.Compare(a.Size, b.Size), cmp.Compare(a.Connections, b.Connections), depth)
}

// present returns the contenders that have a result in s.
func (r *report) present(s section, ours bool) []string {
	var names []string
	for _, g := range r.Given {
		if g.Ours == ours && slices.ContainsFunc(r.Results, func(x result) bool { return x.Contender == g.Name && slices.Contains(s.points, x.point) }) {
			names = append(names, g.Name)
		}
	}
	return names
}

func writeDocs(dir string, r *report) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, s := range r.sections() {
		if err := os.WriteFile(filepath.Join(dir, s.plotName()), []byte(r.plot(s).svg()), 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "performance.md"), []byte(r.markdown()), 0o644)
}

// A text is a Markdown document in the making.
type text struct{ strings.Builder }

func (t *text) line(format string, args ...any) { fmt.Fprintf(t, format+"\n", args...) }

func (t *text) row(cells ...string) { t.line("| %s |", strings.Join(cells, " | ")) }

// head is a table's first two lines; all columns but the first two are numbers.
func (t *text) head(cells ...string) {
	t.row(cells...)
	rule := make([]string, len(cells))
	for i := range rule {
		if rule[i] = "---"; i > 1 {
			rule[i] = "--:"
		}
	}
	t.row(rule...)
}

func (r *report) markdown() string {
	t := &text{}
	t.line("# Performance")
	t.line("")
	t.line("Made by `make bench`; do not edit. Both processes of every measurement ran on this one machine and shared its cores,")
	t.line("so the figures compare, they do not promise.")
	t.line("")
	r.describe(t)
	for _, s := range r.sections() {
		t.line("")
		t.line("## %s%s", strings.ToUpper(s.title()[:1]), s.title()[1:])
		t.line("")
		t.line("![%s](%s)", s.title(), s.plotName())
		t.line("")
		r.ratios(t, s)
		t.line("")
		if s.kind == grid {
			r.best(t, s)
			t.line("")
		}
		r.absolute(t, s)
	}
	r.memory(t)
	if len(r.Left) > 0 {
		t.line("")
		t.line("Not measured, for lack of time: %s.", strings.Join(r.Left, ", "))
	}
	if len(r.Failures) > 0 {
		t.line("")
		t.line("## Failed")
		t.line("")
		for _, f := range r.Failures {
			t.line("- %s", firstLine(f))
		}
	}
	return t.String()
}

// memory is the table of what entries cost.
func (r *report) memory(t *text) {
	if len(r.Memory) == 0 {
		return
	}
	t.line("")
	t.line("## Memory per entry")
	t.line("")
	t.line("Resident memory after %d entries of %d B keys and %d B values less that of the empty server; of dramnode the most while it", r.Memory[0].Entries, memoryKeyBytes, memoryValueBytes)
	t.line("was filled and read. The overhead is what is left for each entry without its key and value.")
	t.line("")
	t.head("server", "entries", "memory MB", "overhead B")
	for _, m := range r.Memory {
		t.row(m.Contender, fmt.Sprint(m.Entries), fmt.Sprintf("%.1f", float64(m.RSSBytes)/1e6), fmt.Sprintf("%.1f", m.Overhead))
	}
}

// describe says where, what and how.
func (r *report) describe(t *text) {
	m := r.Machine
	t.line("- Machine: %s, %d cores, %.0f GB, Linux %s; load average %s before the run.", m.CPU, m.Cores, m.MemoryGB, m.Kernel, m.Load)
	var versions []string
	for _, name := range slices.Sorted(maps.Keys(m.Versions)) {
		versions = append(versions, name+" "+m.Versions[name])
	}
	t.line("- Versions: %s. dramnode chooses GOMAXPROCS itself (half of the cores, at least 1), the others have Go's default.", strings.Join(versions, ", "))
	t.line("- %s; every contender at every point in turn, %d %s of %.2f s each after a warm-up, every second round in reverse order.",
		"Over the loopback interface (tcp) and over shared memory (shm)", r.Rounds, map[bool]string{true: "round", false: "rounds"}[r.Rounds == 1], r.Seconds)
	t.line("- Keys are chosen uniformly among as many values as have 64 MiB, 4 to 10 000; C reads as many values in turn; `ucx_perftest` has one.")
	t.line("- \"Many under way\" is %d, or as many as have 64 MiB.", deep)
	t.line("")
	t.line("How to read it: the first table of each section says how many **times as fast** dramnode is, so more than 1 is faster: by")
	t.line("median latency when one operation is under way, by operations per second otherwise. Ratios are taken round by round; shown are")
	t.line("the median and, in parentheses, the least and the most. The second table has the medians themselves.")
	t.line("")
	t.head("contender", "given")
	for _, g := range r.Given {
		t.row(g.Name, g.Given)
	}
}

// ratios is the table of s: how many times as fast we are.
func (r *report) ratios(t *text, s section) {
	ours, rivals := r.present(s, true), r.present(s, false)
	head := []string{s.column(), "by"}
	for _, rival := range rivals {
		head = append(head, "vs "+rival)
	}
	t.head(head...)
	for _, p := range s.points {
		for _, name := range ours {
			if len(r.of(p, name)) == 0 {
				continue
			}
			cells := []string{s.label(p), strings.TrimPrefix(name, "dramnode ")}
			for _, rival := range rivals {
				cells = append(cells, ratioText(r.ratio(p, name, rival)))
			}
			t.row(cells...)
		}
	}
}

// column says what label tells.
func (s section) column() string {
	if s.kind == grid {
		return "connections x pipeline"
	}
	return "value"
}

// best compares the highest rates of all points of a grid.
func (r *report) best(t *text, s section) {
	for _, names := range [][]string{r.present(s, true), r.present(s, false)} {
		for _, name := range names {
			rate, at := 0.0, point{}
			for _, p := range s.points {
				if f := r.figures(p, name, func(x sample) float64 { return x.OpsPerS }); f.median > rate {
					rate, at = f.median, p
				}
			}
			t.line("- %s is best with %d x %d: %.0f operations/s.", name, at.Connections, at.Outstanding, rate)
		}
	}
}

// label names p within a section.
func (s section) label(p point) string {
	switch {
	case s.kind == grid:
		return fmt.Sprintf("%d x %d", p.Connections, p.Outstanding)
	case p.single():
		return bytesText(p.Size)
	}
	return fmt.Sprintf("%s x %d", bytesText(p.Size), p.Outstanding)
}

func ratioText(s spread) string {
	switch s.n {
	case 0:
		return ""
	case 1:
		return fmt.Sprintf("**%.2f**", s.median)
	}
	return fmt.Sprintf("**%.2f** (%.2f-%.2f)", s.median, s.least, s.most)
}

// absolute is the table of medians.
func (r *report) absolute(t *text, s section) {
	t.head(s.column(), "contender", "operations/s", "GB/s", "p50 us", "p99 us", "client CPU us", "server CPU us")
	for _, p := range s.points {
		for _, name := range append(r.present(s, true), r.present(s, false)...) {
			if len(r.of(p, name)) == 0 {
				continue
			}
			cell := func(format string, figure func(sample) float64) string {
				f := r.figures(p, name, figure)
				if f.n == 0 {
					return ""
				}
				return fmt.Sprintf(format, f.median)
			}
			t.row(s.label(p), name, cell("%.0f", func(x sample) float64 { return x.OpsPerS }), cell("%.3f", func(x sample) float64 { return x.GBPerS }),
				cell("%.2f", func(x sample) float64 { return x.P50 }), cell("%.2f", func(x sample) float64 { return x.P99 }),
				cell("%.2f", func(x sample) float64 { return x.ClientCPU }), cell("%.2f", func(x sample) float64 { return x.ServerCPU }))
		}
	}
}
