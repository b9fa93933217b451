package ucxnet

import (
	"testing"
	"time"
)

// A spinning plays works that come at intervals, with turns of a microsecond, and returns how many turns found nothing.
func spinning(s *spinner, works int, interval nanos) (fruitless int) {
	const turn = nanos(time.Microsecond)
	now := s.worked
	for range works {
		next := now + interval
		for now < next {
			now += turn
			s.fruitless()
			if fruitless++; !s.worth(now) {
				now = next
				s.slept(now, true)
			}
		}
		s.found(now)
	}
	return fruitless
}

// TestSpinnerSparesTheProcessor: a few messages in a row, again and again, cost a look or two each.
func TestSpinnerSparesTheProcessor(t *testing.T) {
	s := newSpinner()
	looks := 0
	for range 100 {
		looks += spinning(&s, warmAfter/2, 50*nanos(time.Microsecond))
		looks += spinning(&s, 1, 50*nanos(time.Millisecond))
	}
	if works := 100 * (warmAfter/2 + 1); looks > coldTurns*works {
		t.Errorf("%d looks for %d messages", looks, works)
	}
}

// TestSpinnerWarms: when work keeps coming, the poller is there when it comes, and stops soon after the last.
func TestSpinnerWarms(t *testing.T) {
	s := newSpinner()
	spinning(&s, 2*warmAfter, 100*nanos(time.Microsecond))
	if s.woken = false; !s.worth(s.worked + 100*nanos(time.Microsecond)) {
		t.Error("it sleeps between messages that keep coming")
	}
	if looks := spinning(&s, 1, nanos(time.Second)); looks < spinTurns || looks > 2*int(spinMax/nanos(time.Microsecond)) {
		t.Errorf("%d looks when nothing comes any more", looks)
	}
	if looks := spinning(&s, 1, nanos(time.Second)); looks > coldTurns {
		t.Errorf("%d looks after a second of silence", looks)
	}
}
