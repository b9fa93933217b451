package main

import (
	"encoding/json"
	"os"
)

// A report is everything that a run found; docs are made from it alone.
type report struct {
	Machine  machine        `json:"machine"`
	Given    []given        `json:"given"` // in the order of the columns
	Rounds   int            `json:"rounds"`
	Seconds  float64        `json:"seconds"` // of each measurement
	Results  []result       `json:"results"`
	Memory   []memoryResult `json:"memory,omitempty"`
	Failures []string       `json:"failures,omitempty"`
	Left     []string       `json:"left,omitempty"` // points that there was no time for
}

// given says what a contender was given.
type given struct {
	Name  string `json:"name"`
	Ours  bool   `json:"ours"`
	Given string `json:"given"`
}

// A result is one measurement of one contender.
type result struct {
	point
	Contender string `json:"contender"`
	Round     int    `json:"round"`
	sample
}

func (r *report) write(path string) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

func readReport(path string) (*report, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := &report{}
	return r, json.Unmarshal(b, r)
}

// of returns the samples of a contender at p, by round.
func (r *report) of(p point, contender string) map[int]sample {
	found := map[int]sample{}
	for _, x := range r.Results {
		if x.point == p && x.Contender == contender {
			found[x.Round] = x.sample
		}
	}
	return found
}

// figures returns one figure of each round; those that were not told are left out.
func (r *report) figures(p point, contender string, figure func(sample) float64) spread {
	var values []float64
	for _, s := range r.of(p, contender) {
		if v := figure(s); v > 0 {
			values = append(values, v)
		}
	}
	return spreadOf(values)
}

// ratio compares two contenders round by round.
func (r *report) ratio(p point, ours, rival string) spread {
	theirs := r.of(p, rival)
	var values []float64
	for round, a := range r.of(p, ours) {
		b, ok := theirs[round]
		if !ok {
			continue
		}
		if times, ok := fasterBy(a, b, p.single()); ok {
			values = append(values, times)
		}
	}
	return spreadOf(values)
}
