package conformance_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/dramnode/dramnode/gateway/conformance"
	"github.com/dramnode/dramnode/gateway/gatewaytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The client within a node, whose store answers; package replica/arena runs the rules on engine and store.
func TestInside(t *testing.T) {
	c := gatewaytest.NewCluster(t, 1, 64<<20)
	conformance.Run(t, conformance.Client{Client: c.Inside(0)})
}

// A cluster of three, from outside, through one node whatever the owner.
func TestOutside(t *testing.T) {
	c := gatewaytest.NewCluster(t, 3, 64<<20)
	conformance.Run(t, conformance.Client{Client: c.Outside(1)})
}

// The same where that node owns none of the keys: all of them are in the first of three partitions.
func TestThroughAnother(t *testing.T) {
	c := gatewaytest.NewCluster(t, 3, 64<<20, gatewaytest.OneOwner)
	for i := range 3 {
		through := c.Outside(i)
		if l, err := through.Locate([]byte("any")); err != nil {
			t.Fatal(err)
		} else if l.Owner.Addr == c.Node(i).Addr() {
			continue
		}
		conformance.Run(t, conformance.Client{Client: through})
		if c.Node(i).Info().Forwarded == 0 {
			t.Error("nothing was forwarded")
		}
		return
	}
	t.Fatal("each of three nodes owns the first partition")
}

// Three copies, from within and from outside.
func TestReplicated(t *testing.T) {
	c := gatewaytest.NewCluster(t, 3, 64<<20, gatewaytest.Replicated)
	t.Run("inside", func(t *testing.T) { conformance.Run(t, conformance.Client{Client: c.Inside(0)}) })
	t.Run("outside", func(t *testing.T) { conformance.Run(t, conformance.Client{Client: c.Outside(1)}) })
}
