package ucxnet

import (
	"testing"

	"golang.org/x/sys/unix"
)

func BenchmarkBootTime(b *testing.B) {
	b.Run("C", func(b *testing.B) {
		for b.Loop() {
			BootTime()
		}
	})
	b.Run("system call", func(b *testing.B) {
		for b.Loop() {
			var t unix.Timespec
			if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
				b.Fatal(err)
			}
		}
	})
}
