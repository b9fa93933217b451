package load

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dramnode/dramnode"
)

// A Mode is a kind of caller.
type Mode string

// The modes.
const (
	Blocking Mode = "blocking" // Outstanding callers, each with one operation at a time
	Async    Mode = "async"    // one caller that keeps Outstanding operations under way
	Batch    Mode = "batch"    // one caller with one batch of Outstanding operations at a time
)

// ParseMode returns the mode of that name.
func ParseMode(name string) (Mode, error) {
	switch m := Mode(name); m {
	case Blocking, Async, Batch:
		return m, nil
	}
	return "", fmt.Errorf("%w: mode %q, want %s, %s or %s", dramnode.ErrInvalid, name, Blocking, Async, Batch)
}

// Limits of a Config.
const (
	MaxOutstanding = 4096
	MaxRate        = 1e9
	MaxDuration    = 24 * time.Hour
)

// A Config says what to send. The names in its errors are those of the command's flags.
type Config struct {
	Prefix      string // of all keys
	Keys        int    // present before the run
	ValueBytes  int
	Mix         Mix
	Chooser     Choice
	Mode        Mode
	Outstanding int           // operations under way, per store
	Rate        float64       // operations per second of all stores together; 0: a closed loop
	Warmup      time.Duration // before Duration; nothing of it is reported
	Duration    time.Duration
	Seed        uint64 // of all random choices

	// ServerCPU tells the processor time that the servers have used so far. It is called when the
	// measurement begins and ends; nil when nobody knows.
	ServerCPU func(context.Context) (time.Duration, error)
	// Progress is called a few times a second from one goroutine; nil when nobody looks.
	Progress func(Progress)
}

// Validate reports all faults at once.
func (c Config) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("%w: %s", dramnode.ErrInvalid, fmt.Sprintf(format, args...)))
		}
	}
	check(c.Keys >= 1 && c.Keys <= MaxKeys, "--keys %d, want 1 to %d", c.Keys, MaxKeys)
	check(c.Outstanding >= 1 && c.Outstanding <= MaxOutstanding, "--outstanding %d, want 1 to %d", c.Outstanding, MaxOutstanding)
	check(c.ValueBytes >= 0, "--size %d, want 0 or more", c.ValueBytes)
	check(c.Duration > 0 && c.Duration <= MaxDuration, "--duration %v, want up to %v", c.Duration, MaxDuration)
	check(c.Warmup >= 0 && c.Warmup <= MaxDuration, "--warmup %v, want 0 to %v", c.Warmup, MaxDuration)
	check(c.Rate >= 0 && c.Rate <= MaxRate, "--rate %v, want 0 to %v", c.Rate, MaxRate)
	check(c.Prefix != "" && len(c.Prefix) <= dramnode.MaxKeyBytes-keyDigits, "a prefix of %d bytes, want 1 to %d", len(c.Prefix), dramnode.MaxKeyBytes-keyDigits)
	check(c.Mix.valid(), "mix %q does not sum to 100 %%", c.Mix.Name)
	check(c.Mode == Blocking || !c.Mix.has(Scan, Modify), "mix %q is for --mode %s only: an operation of it is more than one request", c.Mix.Name, Blocking)
	_, err := ParseMode(string(c.Mode))
	_, chooserErr := ParseChoice(string(c.Chooser))
	return errors.Join(append(errs, err, chooserErr)...)
}
