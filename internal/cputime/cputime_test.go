package cputime

import "testing"

func TestProcessGrowsWithWork(t *testing.T) {
	before := Process()
	x := uint64(1)
	for range 1 << 40 { // ends when the clock has moved
		x = x*6364136223846793005 + 1
		if x&0xfffff == 0 && Process() > before {
			return
		}
	}
	t.Errorf("%v after much work, %v before", Process(), before)
}
