package conformance_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/dramnode/dramnode/gateway/conformance"
	"github.com/dramnode/dramnode/gateway/gatewaytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The client within a node, whose store answers; package storage runs the rules on the store itself.
func TestInside(t *testing.T) {
	c := gatewaytest.NewCluster(t, 1, 64<<20)
	conformance.Run(t, conformance.Client{Client: c.Inside(0)})
}

// A cluster of three, from outside, through one node whatever the owner.
func TestOutside(t *testing.T) {
	c := gatewaytest.NewCluster(t, 3, 64<<20)
	conformance.Run(t, conformance.Client{Client: c.Outside(1)})
}

// Three copies, from within and from outside.
func TestReplicated(t *testing.T) {
	c := gatewaytest.NewCluster(t, 3, 64<<20, gatewaytest.Replicated)
	t.Run("inside", func(t *testing.T) { conformance.Run(t, conformance.Client{Client: c.Inside(0)}) })
	t.Run("outside", func(t *testing.T) { conformance.Run(t, conformance.Client{Client: c.Outside(1)}) })
}
