package ucxnet_test

import (
	"testing"

	"github.com/rs/zerolog"

	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/transport/transporttest"
	"github.com/dramnode/dramnode/ucxnet"
)

func TestContract(t *testing.T) {
	for _, shm := range []ucxnet.ShmMode{ucxnet.ShmOff, ucxnet.ShmAuto} {
		t.Run("shm "+shm.String(), func(t *testing.T) {
			transporttest.Run(t, func(t *testing.T, c transporttest.Config) transport.Network { return open(t, c, shm) })
		})
	}
}

func open(t *testing.T, c transporttest.Config, shm ucxnet.ShmMode) transport.Network {
	listen := c.Addr
	if c.Listen && listen == "" {
		listen = "127.0.0.1:0"
	}
	n, err := ucxnet.New(ucxnet.Config{
		Identity: c.Identity, Listen: listen, Handler: c.Handler, Events: c.Events, Timing: c.Timing, Shm: shm, Log: zerolog.Nop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}
