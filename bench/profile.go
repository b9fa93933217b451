package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	profileLength = 2 * time.Second
	profileHertz  = "997"
	profileBytes  = 64
)

// A frame is one call of a sampled stack.
type frame struct{ symbol, object string }

// A profile counts samples by what the processor was doing.
type profile struct {
	counts map[string]int
	total  int
}

// The groups by their patterns, in the order in which they are asked: first about calls that the kernel was entered by, whatever
// it did then, then about the innermost function, then about the innermost one that is not Go's runtime.
var (
	kernelGroups = []kindOf{
		{"kernel: sockets", regexp.MustCompile(`sys_(send|recv|read|write)`)},
		{"kernel: sched_yield", regexp.MustCompile(`sys_sched_yield`)},
		{"kernel: epoll, poll", regexp.MustCompile(`sys_(epoll|poll|ppoll)`)},
		{"kernel: futex, sleep", regexp.MustCompile(`sys_(futex|nanosleep|clock_nanosleep)`)},
		{"kernel: cma", regexp.MustCompile(`sys_process_vm`)},
	}
	leafGroups = []kindOf{
		{"cgo crossings", regexp.MustCompile(`^(runtime\.(cgocall|asmcgocall|entersyscall|reentersyscall|exitsyscall|casgstatus|save\b)|_cgo_|crosscall|x_cgo)`)},
		{"shim", regexp.MustCompile(`^dn_|^(push|on_am|on_send|send_am|release_first|run)$`)},
		{"clock", regexp.MustCompile(`^(runtime\.nanotime|runtime\.walltime|time\.(now|Now|Since|runtimeNow)|__vdso|clock_gettime)`)},
		{"checksums", regexp.MustCompile(`^hash/crc32`)},
		{"garbage collector, allocation", regexp.MustCompile(`^runtime\.(mallocgc|gc|scan|sweep|mark|greyobject|wbBuf|newobject|bg)`)},
		{"goroutines", regexp.MustCompile(`^runtime\.(schedule|findRunnable|execute|gosched|goschedImpl|gogo|mcall|park|gopark|goready|ready|runq|chan|send|recv|select|sem|casg|wakep|startm|stopm|lock|unlock|pidle|mPark|notetsleep|notewake|check|dropg|sellock|acquireSudog|releaseSudog|resetspinning|globrunq|netpoll|sysmon|retake|usleep|procyield|osyield|handoffp|runtime_|futex)`)},
	}
	ownGroups = []kindOf{
		{"codec (wire)", regexp.MustCompile(`dramnode/wire\.`)},
		{"ucxnet, Go side", regexp.MustCompile(`dramnode/ucxnet\.`)},
		{"storage", regexp.MustCompile(`dramnode/storage\.`)},
		{"node, router", regexp.MustCompile(`dramnode/(node|router|ring|control|replica)[./]`)},
		{"client", regexp.MustCompile(`dramnode/client\.`)},
		{"load generator", regexp.MustCompile(`dramnode/load\.|hdrhistogram|math/rand`)},
	}
)

type kindOf struct {
	name    string
	pattern *regexp.Regexp
}

func matched(groups []kindOf, symbol string) string {
	for _, g := range groups {
		if g.pattern.MatchString(symbol) {
			return g.name
		}
	}
	return ""
}

const elsewhere = "everything else"

// groupOf says what a stack, innermost call first, was doing.
func groupOf(stack []frame) string {
	if len(stack) == 0 {
		return elsewhere
	}
	if strings.Contains(stack[0].object, "kernel") || strings.Contains(stack[0].object, "[unknown]") {
		for _, f := range stack {
			if name := matched(kernelGroups, f.symbol); name != "" {
				return name
			}
		}
		return "kernel: interrupts and the rest"
	}
	object := filepath.Base(stack[0].object)
	if strings.HasPrefix(object, "libuc") || strings.HasPrefix(object, "libc.") || strings.HasPrefix(object, "libpthread") {
		return "UCX" // of libc it is almost the only caller
	}
	if name := matched(leafGroups, stack[0].symbol); name != "" {
		return name
	}
	for _, f := range stack {
		if name := matched(ownGroups, f.symbol); name != "" {
			return name
		}
	}
	return elsewhere
}

// parseProfile reads what perf script prints with -F ip,sym,dso: a line for each call, an empty one after each stack.
func parseProfile(text io.Reader) (profile, error) {
	p := profile{counts: map[string]int{}}
	var stack []frame
	end := func() {
		if len(stack) > 0 {
			p.counts[groupOf(stack)]++
			p.total++
			stack = stack[:0]
		}
	}
	lines := bufio.NewScanner(text)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" {
			end()
			continue
		}
		_, line, _ = strings.Cut(line, " ") // the address
		symbol, object := line, ""
		if i := strings.LastIndex(line, " ("); i >= 0 {
			symbol, object = line[:i], strings.TrimSuffix(line[i+2:], ")")
		}
		stack = append(stack, frame{symbol, object})
	}
	end()
	return p, lines.Err()
}

// A profiled is one load with the profiles of both processes.
type profiled struct {
	op, mode     string
	sample       sample
	node, client profile
}

// profile writes where the processor time of small operations goes, for nodes and clients.
func (o *options) profile(ctx context.Context, out io.Writer) error {
	m := thisMachine()
	fmt.Fprintf(out, "%s, %d cores, Linux %s. %d B, 64 under way, one connection; `perf record -F %s -g` of both processes at once for %v and what surrounds them.\n",
		m.CPU, m.Cores, m.Kernel, profileBytes, profileHertz, profileLength)
	for _, transport := range transports {
		l := newLab(o.tools, transport)
		var all []profiled
		for _, op := range ops {
			for _, mode := range []string{"async", "blocking"} {
				p, err := l.profile(ctx, op, mode)
				if err != nil {
					l.stop()
					return fmt.Errorf("%s %s %s: %w", transport, op, mode, err)
				}
				all = append(all, p)
			}
		}
		l.stop()
		writeProfiles(out, transport, all)
	}
	return nil
}

func (l *lab) profile(ctx context.Context, op, mode string) (profiled, error) {
	p := profiled{op: op, mode: mode}
	dir, err := os.MkdirTemp("", "profile")
	if err != nil {
		return p, err
	}
	defer os.RemoveAll(dir)
	node, port, err := l.node()
	if err != nil {
		return p, err
	}
	files := []string{filepath.Join(dir, "node"), filepath.Join(dir, "client")}
	at := newPoint(l.transport, op, profileBytes, deep)
	// The one perf records the node for as long as the other records the client.
	args := []string{"record", "-q", "-F", profileHertz, "-g", "-o", files[0], "-p", strconv.Itoa(node.cmd.Process.Pid), "--",
		"perf", "record", "-q", "-F", profileHertz, "-g", "-o", files[1], "--",
		l.dramnode, "bench", "--json", "--addr", loopback(port), "--shm", l.shm(), "--op", op, "--mode", mode,
		"--size", strconv.Itoa(at.Size), "--outstanding", strconv.Itoa(at.Outstanding), "--keys", strconv.Itoa(at.keys()),
		"--duration", profileLength.String(), "--warmup", "100ms"}
	text, err := run(ctx, nil, "perf", args...)
	if err != nil {
		return p, err
	}
	if p.sample, err = parseJSON(text); err != nil {
		return p, err
	}
	for i, to := range []*profile{&p.node, &p.client} {
		text, err := run(ctx, nil, "perf", "script", "-i", files[i], "-F", "ip,sym,dso")
		if err != nil {
			return p, err
		}
		if *to, err = parseProfile(bytes.NewReader(text)); err != nil {
			return p, err
		}
	}
	return p, nil
}

// writeProfiles makes a table: nanoseconds of an operation's processor time by group.
func writeProfiles(out io.Writer, transport string, all []profiled) {
	fmt.Fprintf(out, "\n## %s: nanoseconds of processor time of an operation\n\n| |", transport)
	for _, p := range all {
		fmt.Fprintf(out, " %s %s: node | client |", p.op, p.mode)
	}
	fmt.Fprintf(out, "\n|---|%s\n| operations/s |", strings.Repeat("--:|", 2*len(all)))
	for _, p := range all {
		fmt.Fprintf(out, " %.0f | |", p.sample.OpsPerS)
	}
	fmt.Fprintf(out, "\n| **all** |")
	weight := map[string]float64{}
	for _, p := range all {
		fmt.Fprintf(out, " **%.0f** | **%.0f** |", 1000*p.sample.ServerCPU, 1000*p.sample.ClientCPU)
		for _, x := range []profile{p.node, p.client} {
			for name, n := range x.counts {
				weight[name] += float64(n) / float64(x.total)
			}
		}
	}
	fmt.Fprintln(out)
	names := make([]string, 0, len(weight))
	for name := range weight {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		if weight[a] != weight[b] {
			return int(1e6 * (weight[b] - weight[a]))
		}
		return strings.Compare(a, b)
	})
	for _, name := range names {
		fmt.Fprintf(out, "| %s |", name)
		for _, p := range all {
			fmt.Fprintf(out, " %s | %s |", p.node.share(name, p.sample.ServerCPU), p.client.share(name, p.sample.ClientCPU))
		}
		fmt.Fprintln(out)
	}
}

// share is a group's part of so many microseconds, in nanoseconds; nothing for less than one.
func (p profile) share(name string, micros float64) string {
	ns := 1000 * micros * float64(p.counts[name]) / float64(max(1, p.total))
	if ns < 1 {
		return ""
	}
	return fmt.Sprintf("%.0f", ns)
}
