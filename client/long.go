package client

import (
	"hash/crc32"
	"runtime"

	"github.com/dramnode/dramnode/wire"
)

// stride is how much of a long value is read or copied at a time. Then others who share this processor run, the network's
// poller among them: it would stand still for milliseconds otherwise, since nothing interrupts a copy.
const stride = 256 << 10

// strides calls do for [from, to) of n bytes, stride by stride.
func strides(n int, do func(from, to int)) {
	for from := 0; from < n; from += stride {
		if from > 0 {
			runtime.Gosched()
		}
		do(from, min(from+stride, n))
	}
}

// checksum is wire.Checksum of a value of any length.
func checksum(b []byte) (sum uint32) {
	strides(len(b), func(from, to int) { sum = crc32.Update(sum, wire.Castagnoli, b[from:to]) })
	return sum
}

// copyValue is copy for a value of any length.
func copyValue(dst, src []byte) {
	strides(len(src), func(from, to int) { copy(dst[from:to], src[from:to]) })
}
