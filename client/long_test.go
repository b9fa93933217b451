package client

import (
	"bytes"
	"testing"

	"github.com/dramnode/dramnode/wire"
)

func TestLongValues(t *testing.T) {
	for _, n := range []int{0, 1, stride - 1, stride, stride + 1, 3*stride + 7} {
		src := make([]byte, n)
		for i := range src {
			src[i] = byte(i ^ i>>8 ^ i>>16)
		}
		dst := make([]byte, n)
		if copyValue(dst, src); !bytes.Equal(dst, src) {
			t.Errorf("a copy of %d bytes differs", n)
		}
		if got, want := checksum(src), wire.Checksum(src); got != want {
			t.Errorf("checksum of %d bytes is %#x, want %#x", n, got, want)
		}
	}
}
