package load

import (
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

func TestChoosersStayInRange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 2000).Draw(t, "keys")
		grown := n + rapid.IntRange(0, 500).Draw(t, "grown by")
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		for _, choice := range []Choice{Uniform, Zipfian, Latest} {
			c := newChooser(choice, newZipf(n))
			for i := range 50 {
				size := n
				if i >= 25 {
					size = grown
				}
				if got := c.next(random, size); got < 0 || got >= size {
					t.Fatalf("%s chose %d of %d", choice, got, size)
				}
			}
		}
	})
}

func TestZipfGrowsToWhatItWouldHaveBeen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 1000).Draw(t, "n")
		more := n + rapid.IntRange(0, 1000).Draw(t, "more")
		grown, fresh := newZipf(n), newZipf(more)
		if grown.grow(more); grown.zeta != fresh.zeta || grown.n != fresh.n {
			t.Fatalf("grown %+v, made at once %+v", grown, fresh)
		}
	})
}

// TestZipfFrequencies compares ranks with the distribution that they are to have: each of the first two
// exactly, further ones in groups, since the generator approximates them.
func TestZipfFrequencies(t *testing.T) {
	const n, draws = 1000, 400_000
	z, random := newZipf(n), rand.New(rand.NewPCG(7, 7))
	count := make([]int, n)
	for range draws {
		count[z.rank(random, n)]++
	}
	for _, group := range []struct {
		from, to  int // ranks from 0
		tolerance float64
	}{{0, 1, 0.02}, {1, 2, 0.02}, {2, 10, 0.15}, {10, 100, 0.1}, {100, 500, 0.1}, {500, n, 0.1}} {
		want, got := 0.0, 0
		for i := group.from; i < group.to; i++ {
			want += math.Pow(float64(i+1), -theta) / z.zeta
			got += count[i]
		}
		if share := float64(got) / draws; math.Abs(share/want-1) > group.tolerance {
			t.Errorf("ranks %d to %d: share %.4f, want %.4f", group.from, group.to-1, share, want)
		}
	}
}

func TestUniformIsEven(t *testing.T) {
	const n, draws = 16, 160_000
	c, random := newChooser(Uniform, zipf{}), rand.New(rand.NewPCG(1, 1))
	var count [n]int
	for range draws {
		count[c.next(random, n)]++
	}
	for i, got := range count {
		if got < draws/n*95/100 || got > draws/n*105/100 {
			t.Errorf("key %d came %d times of %d", i, got, draws)
		}
	}
}

func TestScatteredKeepsTheSkewAndMovesThePeak(t *testing.T) {
	const n, draws = 1000, 100_000
	c, random := newChooser(Zipfian, newZipf(n)), rand.New(rand.NewPCG(3, 3))
	count := map[int]int{}
	for range draws {
		count[c.next(random, n)]++
	}
	first, second := int(scatter(0)%n), int(scatter(1)%n)
	if first == 0 && second == 1 {
		t.Fatal("the popular keys are the first ones")
	}
	if count[first] <= count[second] || count[second] < draws/100 {
		t.Errorf("key %d came %d times, key %d %d times", first, count[first], second, count[second])
	}
}

func TestLatestPrefersTheNewest(t *testing.T) {
	const draws = 10_000
	c, random := newChooser(Latest, newZipf(100)), rand.New(rand.NewPCG(3, 3))
	for _, n := range []int{100, 150} {
		newest, old := 0, 0
		for range draws {
			switch got := c.next(random, n); {
			case got == n-1:
				newest++
			case got < n/2:
				old++
			}
		}
		if newest < draws/10 || newest > draws/4 || old > draws/4 {
			t.Errorf("of %d keys: the newest came %d times of %d, the older half %d times", n, newest, draws, old)
		}
	}
}

func BenchmarkZipfian(b *testing.B) {
	c, random := newChooser(Zipfian, newZipf(1<<20)), rand.New(rand.NewPCG(3, 3))
	for b.Loop() {
		c.next(random, 1<<20)
	}
}
