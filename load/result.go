package load

import (
	"context"
	"errors"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/dramnode/dramnode"
)

// A Result is what was measured, without the warm-up. Ops, Bytes and latencies are those of the
// operations that succeeded.
type Result struct {
	Took      time.Duration
	Ops       int64
	Bytes     int64            // of values
	Errors    map[string]int64 // by class, see Class
	First     error            // of Errors
	Latencies *Latencies
	ByKind    map[Kind]*Latencies // of the kinds that came

	ClientCPU time.Duration // of this whole process
	ServerCPU time.Duration // 0 when not known
}

// Failed is the number of operations that failed.
func (r Result) Failed() int64 {
	n := int64(0)
	for _, count := range r.Errors {
		n += count
	}
	return n
}

// OpsPerSecond is the rate of operations.
func (r Result) OpsPerSecond() float64 { return perSecond(float64(r.Ops), r.Took) }

// GBPerSecond is the rate of value bytes, in units of 1e9.
func (r Result) GBPerSecond() float64 { return perSecond(float64(r.Bytes)/1e9, r.Took) }

// ClientCPUPerOp is the processor time of this process for each operation.
func (r Result) ClientCPUPerOp() time.Duration { return r.ClientCPU / time.Duration(max(r.Ops, 1)) }

// ServerCPUPerOp is the processor time of the servers for each operation.
func (r Result) ServerCPUPerOp() time.Duration { return r.ServerCPU / time.Duration(max(r.Ops, 1)) }

func perSecond(n float64, took time.Duration) float64 {
	if took <= 0 {
		return 0
	}
	return n / took.Seconds()
}

// Latencies is a distribution, to two digits, in nanoseconds; longer ones than maxLatency count as it.
type Latencies struct{ h *hdrhistogram.Histogram }

const maxLatency = int64(10 * time.Minute)

func newLatencies() *Latencies { return &Latencies{hdrhistogram.New(1, maxLatency, 2)} }

func (l *Latencies) add(d time.Duration) {
	// It cannot fail: the value is in range.
	_ = l.h.RecordValue(max(1, min(int64(d), maxLatency)))
}

// Count is the number of operations.
func (l *Latencies) Count() int64 { return l.h.TotalCount() }

// Quantile is the latency that percent of the operations did not exceed.
func (l *Latencies) Quantile(percent float64) time.Duration {
	return time.Duration(l.h.ValueAtQuantile(percent))
}

// Mean is the average latency.
func (l *Latencies) Mean() time.Duration { return time.Duration(l.h.Mean()) }

// Max is the longest latency.
func (l *Latencies) Max() time.Duration { return time.Duration(l.h.Max()) }

// errLength is a value that is not as long as it was put.
var errLength = errors.New("load: the value has another length than what was put")

// classes in the order in which they are looked for: an error that wraps several is the first.
var classes = []struct {
	err  error
	name string
}{
	{errLength, "wrong length"},
	{dramnode.ErrCorrupt, "checksum mismatch"},
	{dramnode.ErrUnknownOutcome, "unknown outcome"},
	{dramnode.ErrNotFound, "not found"},
	{dramnode.ErrNoMemory, "no memory"},
	{dramnode.ErrTooLarge, "too large"},
	{dramnode.ErrBusy, "busy"},
	{dramnode.ErrNoQuorum, "no quorum"},
	{dramnode.ErrDegraded, "degraded"},
	{dramnode.ErrPartitionLost, "partition lost"},
	{dramnode.ErrNotAuthorised, "not authorised"},
	{dramnode.ErrClosed, "closed"},
	{dramnode.ErrUnavailable, "unavailable"},
	{dramnode.ErrInvalid, "invalid"},
	{context.DeadlineExceeded, "timeout"},
}

// Class is the word under which an error is counted.
func Class(err error) string {
	for _, c := range classes {
		if errors.Is(err, c.err) {
			return c.name
		}
	}
	return "other"
}

// Progress is how far a run has come.
type Progress struct {
	Warming      bool
	Elapsed      time.Duration // since the warm-up began
	Of           time.Duration // warm-up and measurement together
	Ops, Errors  int64         // so far, the warm-up included
	OpsPerSecond float64       // since the last call
}
