// Package cputime tells how much processor time this process has used.
package cputime

import (
	"syscall"
	"time"
)

// Process returns the user and system time of all threads of this process so far, 0 if the system does
// not tell.
func Process() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
