package main

import "slices"

// A spread is the median of some figures with their extremes; n is how many there were.
type spread struct {
	median, least, most float64
	n                   int
}

func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return spread{(sorted[(n-1)/2] + sorted[n/2]) / 2, sorted[0], sorted[n-1], n}
}

// fasterBy tells how many times as fast a is as b: by the median time of an operation when there is one
// at a time, else by the rate. ok is false when one of them did not tell.
func fasterBy(a, b sample, single bool) (times float64, ok bool) {
	if single && a.P50 > 0 && b.P50 > 0 {
		return b.P50 / a.P50, true
	}
	if a.OpsPerS <= 0 || b.OpsPerS <= 0 {
		return 0, false
	}
	return a.OpsPerS / b.OpsPerS, true
}
