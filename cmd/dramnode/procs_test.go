package main

import "testing"

func TestProcs(t *testing.T) {
	for _, tt := range []struct{ cores, pollers, want int }{
		{1, 1, 1},
		{2, 1, 1}, // the other core is for who asks
		{4, 1, 2},
		{16, 1, 8},
		{64, 1, 8}, // one poller, and seven for what goes on beside it
		{64, 8, 15},
		{2, 8, 1},
	} {
		if got := procs(tt.cores, tt.pollers); got != tt.want {
			t.Errorf("procs(%d cores, %d pollers) = %d, want %d", tt.cores, tt.pollers, got, tt.want)
		}
	}
}
