// Package tree copies directories of files into a store and back: one file is one key.
//
// A file's key is a prefix and its path below the directory, with slashes. Nothing outside the
// directory is read or written, whatever links or keys say. At most Options.Parallel files are in
// memory at once. What could not be copied is counted and described, never passed over in silence.
package tree

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dramnode/dramnode"
)

// A Store is what the copies need of a client. Its methods are called by several goroutines.
type Store interface {
	// Put stores value and reports whether it is there: that what the store then holds under key
	// has value's length and checksum.
	Put(ctx context.Context, key, value []byte) error
	// Get returns the value, whose checksum was verified. The caller owns it.
	Get(ctx context.Context, key []byte) ([]byte, error)
	// Keys yields the keys that start with prefix, in order; an error ends them.
	Keys(ctx context.Context, prefix []byte) iter.Seq2[[]byte, error]
}

// Options say how much to do at once. The zero value is valid.
type Options struct {
	Parallel      int       // files in memory at once, 0 for 8
	MaxValueBytes int64     // longer files are not read, 0 for the default of a cluster
	Progress      *Progress // may be nil
}

func (o Options) withDefaults() Options {
	if o.Parallel <= 0 {
		o.Parallel = 8
	}
	if o.MaxValueBytes <= 0 {
		o.MaxValueBytes = dramnode.DefaultMaxValueBytes
	}
	if o.Progress == nil {
		o.Progress = new(Progress)
	}
	return o
}

// Progress is a copy's state so far; any goroutine may read it.
type Progress struct {
	Files, Bytes           atomic.Int64
	TotalFiles, TotalBytes atomic.Int64 // 0 while unknown
}

// MaxFailures ends a copy: after so many, the rest would fail too.
const MaxFailures = 20

// maxSkips limits the descriptions in Summary.Skips; all are counted.
const maxSkips = 100

// A Summary is what a copy did.
type Summary struct {
	Files   int64
	Bytes   int64
	Took    time.Duration
	Skipped int64     // what is not a file, or vanished meanwhile
	Skips   []Problem // the first of them
	Failed  []Problem // at most MaxFailures: the copy stops there
}

// GBPerSecond is the rate in units of 1e9 bytes.
func (s Summary) GBPerSecond() float64 {
	if s.Took <= 0 {
		return 0
	}
	return float64(s.Bytes) / 1e9 / s.Took.Seconds()
}

// Err reports failures; nil when everything was copied or skipped for a stated reason.
func (s Summary) Err() error {
	if len(s.Failed) == 0 {
		return nil
	}
	return fmt.Errorf("%d files failed, first %q: %w", len(s.Failed), s.Failed[0].Path, s.Failed[0].Err)
}

// A Problem is one path, or key, that was not copied.
type Problem struct {
	Path string
	Err  error
}

// A copier hands jobs to a bounded number of goroutines and keeps their books.
type copier struct {
	Options
	cancel context.CancelFunc

	mu      sync.Mutex
	summary Summary // guarded by mu
}

// errGone wraps the error of a job whose source vanished meanwhile.
var errGone = errors.New("vanished meanwhile")

// run calls feed, which passes jobs, paths or keys, to its argument, and work, which returns the bytes
// it copied, for each of them in parallel. It returns when all are done. The argument of feed returns
// false once the copy is to stop.
func (c *copier) run(parent context.Context, feed func(ctx context.Context, job func(string) bool) error, work func(ctx context.Context, job string) (int, error)) (Summary, error) {
	var ctx context.Context
	ctx, c.cancel = context.WithCancel(parent)
	defer c.cancel()
	start := time.Now()
	jobs := make(chan string)
	var wg sync.WaitGroup
	for range c.Parallel {
		wg.Go(func() {
			for job := range jobs {
				n, err := work(ctx, job)
				if err == nil || ctx.Err() == nil { // what fails after the end is only cut short
					c.done(job, n, err)
				}
			}
		})
	}
	err := feed(ctx, func(job string) bool {
		select {
		case jobs <- job:
			return true
		case <-ctx.Done():
			return false
		}
	})
	close(jobs)
	wg.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.summary.Took = time.Since(start)
	if len(c.summary.Failed) == MaxFailures {
		err = nil // an echo of our own cancel
	}
	return c.summary, errors.Join(err, parent.Err())
}

func (c *copier) done(job string, valueBytes int, err error) {
	if errors.Is(err, errGone) {
		c.skipped(job, err)
		return
	}
	if err != nil {
		c.failed(job, err)
		return
	}
	c.Progress.Files.Add(1)
	c.Progress.Bytes.Add(int64(valueBytes))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.summary.Files++
	c.summary.Bytes += int64(valueBytes)
}

func (c *copier) skipped(path string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.summary.Skipped++
	if len(c.summary.Skips) < maxSkips {
		c.summary.Skips = append(c.summary.Skips, Problem{path, err})
	}
}

func (c *copier) failed(path string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.summary.Failed) == MaxFailures {
		return
	}
	c.summary.Failed = append(c.summary.Failed, Problem{path, err})
	if len(c.summary.Failed) == MaxFailures {
		c.cancel()
	}
}
