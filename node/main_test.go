package node

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain lets the clusters of parallel tests wait for their timeouts at the same time, whatever the
// number of processors.
func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", "6"); err != nil { // the command line still wins
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}
