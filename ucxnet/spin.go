package ucxnet

import "time"

const (
	spinMin   = nanos(5 * time.Microsecond)
	spinMax   = nanos(200 * time.Microsecond) // a client on one processor takes 60 to 150 us between two batches of 64
	spinWorth = nanos(250 * time.Microsecond)
	spinTurns = 64 // fruitless turns before a sleep, at least, once warm
	coldTurns = 2  // and before
	warmAfter = 24 // works in a row, each within spinWorth of the one before
)

// A spinner says for how long a poller that finds nothing goes on looking before it sleeps.
//
// Looking pays once work keeps coming, so it begins after some works in a row, each soon after the one before: the few
// messages of an idle cluster, each with its answers, cost a wake-up each and no more.
//
// From then on the time adapts: it doubles when work came while it lasted, or so soon afterwards that the wake-ups
// themselves may be to blame (two sides that wait for each other to wake never find each other spinning),
// and halves otherwise.
type spinner struct {
	spin   nanos
	streak int   // works in a row, up to warmAfter
	worked nanos // when the last came
	idle   int   // fruitless turns since
	since  nanos // when they began
	woken  bool  // from a sleep, since the last work
}

func newSpinner() spinner { return spinner{spin: spinMax} }

// found notes work.
func (s *spinner) found(now nanos) {
	if s.idle > 0 {
		s.spin = min(2*s.spin, spinMax)
	}
	switch {
	case s.idle == 0 && !s.woken: // still the same
	case now-s.worked < spinWorth:
		s.streak = min(s.streak+1, warmAfter)
	default:
		s.streak = 0
	}
	s.idle, s.since, s.worked, s.woken = 0, now, now, false
}

// fruitless notes a turn without, and returns how many there were in a row.
func (s *spinner) fruitless() int {
	s.idle++
	return s.idle
}

// worth reports whether to look again instead of sleeping.
func (s *spinner) worth(now nanos) bool {
	if s.streak < warmAfter {
		return s.idle < coldTurns
	}
	return s.idle < spinTurns || now-s.since < s.spin
}

// slept notes a sleep that ended now. It goes on, in effect, when nobody woke us.
func (s *spinner) slept(now nanos, woken bool) {
	s.spin = max(s.spin/2, spinMin)
	if !woken {
		return
	}
	if now-s.since < spinWorth {
		s.spin = min(4*s.spin, spinMax)
	}
	s.idle, s.since, s.woken = 0, now, true
}
