package node

import (
	"context"
	"sync"
)

// A janitor runs small jobs one after the other on a goroutine of its own. Its queue holds at most a
// few jobs per partition and table, so it needs no limit of its own.
type janitor struct {
	mu   sync.Mutex
	jobs []func()
	kick chan struct{}
}

func newJanitor() *janitor { return &janitor{kick: make(chan struct{}, 1)} }

// add never blocks and may be called with any lock held.
func (j *janitor) add(job func()) {
	j.mu.Lock()
	j.jobs = append(j.jobs, job)
	j.mu.Unlock()
	select {
	case j.kick <- struct{}{}:
	default:
	}
}

func (j *janitor) take() []func() {
	j.mu.Lock()
	defer j.mu.Unlock()
	jobs := j.jobs
	j.jobs = nil
	return jobs
}

// run works until ctx ends, and then finishes what is queued.
func (j *janitor) run(ctx context.Context) {
	for {
		for _, job := range j.take() {
			job()
		}
		select {
		case <-ctx.Done():
			for _, job := range j.take() {
				job()
			}
			return
		case <-j.kick:
		}
	}
}
