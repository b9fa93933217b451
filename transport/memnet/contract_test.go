package memnet_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/transport/memnet"
	"github.com/dramnode/dramnode/transport/transporttest"
)

func TestContract(t *testing.T) {
	for _, c := range []struct {
		name        string
		least, most time.Duration
	}{{"instant", 0, 0}, {"delayed", 50 * time.Microsecond, 2 * time.Millisecond}} {
		t.Run(c.name, func(t *testing.T) {
			world := memnet.New(1)
			world.SetDelay(c.least, c.most)
			var port atomic.Uint64
			transporttest.Run(t, func(t *testing.T, c transporttest.Config) transport.Network {
				addr := c.Addr
				if c.Listen && addr == "" {
					addr = fmt.Sprintf("mem:%d", port.Add(1))
				}
				n, err := world.Network(memnet.Config{Identity: c.Identity, Addr: addr, Handler: c.Handler, Events: c.Events, Timing: c.Timing})
				if err != nil {
					t.Fatal(err)
				}
				return n
			})
		})
	}
}
