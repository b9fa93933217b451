package object

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"
)

// stopTimeout is how long requests may go on when the face ends.
const stopTimeout = 2 * time.Second

// Serve runs an HTTP face with its Service until ctx ends; see gateway.Serve. A request goes on when its client closes
// the connection: that may be only the client's side of it, and the answer is still wanted. Whoever is gone
// altogether ends it with the first write to nobody.
func Serve(ctx context.Context, l net.Listener, s *Service, server *http.Server) error {
	ctx, cancel := context.WithCancel(ctx)
	base, end := context.WithCancel(context.WithoutCancel(ctx))
	server.BaseContext = func(net.Listener) context.Context { return base }
	var handlers sync.WaitGroup
	inner := patient(server.Handler, s.cfg.Stall)
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handlers.Add(1)
		defer handlers.Done()
		inner.ServeHTTP(w, r.WithContext(base))
	})
	var wg sync.WaitGroup
	wg.Go(func() { s.Run(ctx) })
	wg.Go(func() {
		<-ctx.Done()
		stop, done := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer done()
		if server.Shutdown(stop) != nil {
			_ = server.Close() // connections that are in use
		}
		end()
	})
	err := server.Serve(l)
	cancel()
	wg.Wait()
	handlers.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
