package node

import (
	"context"
	"sync"
)

// services are the long-running parts of a node. Each has a context of its own, so that they can be
// stopped one after the other.
type services struct {
	first chan struct{} // closed when a service ended by itself with an error
	once  sync.Once
	err   error // what ended it; set before first is closed
}

// A service is one of them.
type service struct {
	cancel context.CancelFunc
	done   chan struct{}
	err    error // valid once done is closed
}

func newServices() *services { return &services{first: make(chan struct{})} }

func (s *services) start(run func(context.Context) error) *service {
	ctx, cancel := context.WithCancel(context.Background())
	one := &service{cancel: cancel, done: make(chan struct{})}
	go func() {
		one.err = run(ctx)
		close(one.done)
		if one.err != nil {
			s.once.Do(func() {
				s.err = one.err
				close(s.first)
			})
		}
	}()
	return one
}

// wait returns when ctx ends (nil) or a service fails (its error).
func (s *services) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.first:
		return s.err
	}
}

// stop ends one service and waits for it.
func (o *service) stop() {
	o.cancel()
	<-o.done
}
