package load

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/dramnode/dramnode"
)

// A Choice says which keys are used how often.
type Choice string

// The choices. Zipfian and latest follow YCSB: Cooper et al., "Benchmarking Cloud Serving Systems with
// YCSB", SoCC 2010.
const (
	Uniform Choice = "uniform" // all keys alike
	Zipfian Choice = "zipfian" // few keys most of the time; which ones is scattered over the key space
	Latest  Choice = "latest"  // the keys that were inserted last most of the time
)

// ParseChoice returns the choice of that name.
func ParseChoice(name string) (Choice, error) {
	switch c := Choice(name); c {
	case Uniform, Zipfian, Latest:
		return c, nil
	}
	return "", fmt.Errorf("%w: chooser %q, want %s, %s or %s", dramnode.ErrInvalid, name, Uniform, Zipfian, Latest)
}

// A chooser picks key numbers. It is one caller's: not safe for concurrent use.
type chooser interface {
	// next returns a number in [0,n), n >= 1. n never shrinks from call to call.
	next(random *rand.Rand, n int) int
}

// newChooser returns the chooser of a caller. The state that takes long to compute is shared: z is of
// the first n keys.
func newChooser(c Choice, z zipf) chooser {
	switch c {
	case Zipfian:
		return &scattered{zipf: z}
	case Latest:
		return &latest{zipf: z}
	}
	return uniform{}
}

type uniform struct{}

func (uniform) next(random *rand.Rand, n int) int { return random.IntN(n) }

// theta is YCSB's skew.
const theta = 0.99

// A zipf picks ranks: rank i, from 0, about 1/(i+1)^theta as often as rank 0. It is the generator of
// Gray et al., "Quickly Generating Billion-Record Synthetic Databases", SIGMOD 1994, section 3.2: exact
// for the first two ranks and a continuous approximation for the others.
type zipf struct {
	n    int
	zeta float64 // sum of 1/i^theta for i = 1..n
	eta  float64
}

// zetaTwo is zeta for n = 2.
var zetaTwo = 1 + math.Pow(0.5, theta)

// newZipf takes time in proportion to n.
func newZipf(n int) zipf {
	var z zipf
	z.grow(n)
	return z
}

// grow makes z one of n ranks; it costs one term for each rank that is new.
func (z *zipf) grow(n int) {
	for i := z.n + 1; i <= n; i++ {
		z.zeta += math.Pow(float64(i), -theta)
	}
	z.n = n
	z.eta = (1 - math.Pow(2/float64(n), 1-theta)) / (1 - zetaTwo/z.zeta)
}

func (z *zipf) rank(random *rand.Rand, n int) int {
	if n > z.n {
		z.grow(n)
	}
	u := random.Float64()
	switch uz := u * z.zeta; {
	case uz < 1:
		return 0
	case uz < zetaTwo || n <= 2:
		return min(1, n-1)
	}
	// Rounding may reach n itself.
	return min(int(float64(n)*math.Pow(z.eta*u-z.eta+1, 1/(1-theta))), n-1)
}

// scattered gives the popular ranks places all over the key space, as YCSB's ScrambledZipfian does.
type scattered struct{ zipf zipf }

func (s *scattered) next(random *rand.Rand, n int) int {
	return int(scatter(uint64(s.zipf.rank(random, n))) % uint64(n))
}

// scatter is FNV-1a over the eight bytes of v.
func scatter(v uint64) uint64 {
	h := uint64(0xcbf29ce484222325)
	for range 8 {
		h = (h ^ v&0xff) * 0x100000001b3
		v >>= 8
	}
	return h
}

// latest makes the newest key the most popular one.
type latest struct{ zipf zipf }

func (l *latest) next(random *rand.Rand, n int) int { return n - 1 - l.zipf.rank(random, n) }
