package ucxnet

import (
	"slices"
	"time"
)

// A railSet holds the poller's rails. Those that have been quiet for long sleep: UCX is armed to tell by
// their descriptors, and nobody looks at them. So many peers by shared memory cost little while they
// have nothing to say. The first rail, tcp's, sleeps only with the poller.
type railSet struct {
	all     []*rail
	awake   []*rail // of them
	sleeper *sleeper
	ready   []int // scratch
}

// A rail that brought nothing for so many steps rests: while others work, only every restPeriod'th turn
// looks at it. After sleepSteps it sleeps.
const (
	restSteps  = 64
	restPeriod = 32
	sleepSteps = restSteps + 64
)

func (s *railSet) add(r *rail) error {
	if err := s.sleeper.watch(r.fd); err != nil {
		return err
	}
	r.set, r.awake, r.fruitless = s, true, 0
	s.all = append(s.all, r)
	s.awake = append(s.awake, r)
	return nil
}

func (s *railSet) remove(r *rail) {
	s.sleeper.unwatch(r.fd)
	is := func(x *rail) bool { return x == r }
	s.all, s.awake = slices.DeleteFunc(s.all, is), slices.DeleteFunc(s.awake, is)
	r.set, r.awake = nil, false
}

func (s *railSet) wake(r *rail) {
	if !r.awake {
		r.awake, r.fruitless = true, 0
		s.awake = append(s.awake, r)
	}
}

// resting reports whether r may be left out of a turn: where both transports are in use, most traffic
// goes by one, and a look at the other costs as much as a small request by shared memory.
func (s *railSet) resting(r *rail, turn uint64) bool {
	return len(s.all) > 1 && r.fruitless >= restSteps && r.quiet() && turn%restPeriod != 0
}

// quiet reports that nothing is under way that this side has begun.
func (r *rail) quiet() bool {
	return len(r.cmds) == 0 && r.c.outstanding == 0 && r.handled == int(r.c.count)
}

// rest puts rails to sleep that have had nothing for long, and wakes those of the others that have.
func (s *railSet) rest() {
	s.sleepers(func(r *rail) bool { return r != s.all[0] && r.fruitless >= sleepSteps && r.quiet() })
	if len(s.awake) < len(s.all) {
		s.look()
	}
}

// arm prepares every rail for the poller's own sleep. False: one has work.
func (s *railSet) arm() bool {
	s.sleepers(func(r *rail) bool { return true })
	return len(s.awake) == 0
}

// sleepers puts the rails of the awake to sleep that shall and can.
func (s *railSet) sleepers(shall func(*rail) bool) {
	s.awake = slices.DeleteFunc(s.awake, func(r *rail) bool {
		if !shall(r) {
			return false
		}
		r.awake = !r.arm()
		return !r.awake
	})
}

// look wakes the rails that have something to say.
func (s *railSet) look() {
	s.ready = s.sleeper.readableFDs(s.ready[:0])
	for _, fd := range s.ready {
		for _, r := range s.all {
			if r.fd == fd {
				s.wake(r)
			}
		}
	}
}

// park sleeps until there is work or d has passed; false: it was time. busy is asked when nothing more
// would be missed.
func (s *railSet) park(d time.Duration, busy func() bool) bool {
	woken := s.sleeper.park(d, func() bool { return busy() || !s.arm() })
	if len(s.all) > 0 {
		s.wake(s.all[0])
	}
	s.look()
	return woken
}
