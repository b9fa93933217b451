package ucxnet

import (
	"testing"

	"github.com/dramnode/dramnode/control/member"
)

func BenchmarkBootTime(b *testing.B) {
	b.Run("C", func(b *testing.B) {
		for b.Loop() {
			BootTime()
		}
	})
	b.Run("system call", func(b *testing.B) {
		for b.Loop() {
			member.BootTime()
		}
	})
}
