package main

import (
	"fmt"
	"regexp"
)

// A point is what all contenders do the same of.
type point struct {
	Transport   string `json:"transport"` // tcp or shm
	Op          string `json:"op"`        // get or put
	Size        int    `json:"size"`      // bytes of a value
	Outstanding int    `json:"outstanding"`
}

func (p point) String() string {
	return fmt.Sprintf("%s/%s/%s/x%d", p.Transport, p.Op, bytesText(p.Size), p.Outstanding)
}

// keys is how many different values are used: as many as fit keyBytes.
func (p point) keys() int { return max(4, min(10_000, keyBytes/p.Size)) }

const (
	keyBytes = 64 << 20
	// inFlightBytes bounds what is under way, alike for all: beyond it one measures the caches.
	inFlightBytes = 64 << 20
	deep          = 64
)

var (
	transports = []string{"tcp", "shm"}
	ops        = []string{"get", "put"}
	sizes      = []int{8, 64, 1 << 10, 4 << 10, 64 << 10, 1 << 20, 16 << 20}
)

// allPoints returns the grid: each size with one operation under way and with many.
func allPoints() []point {
	var all []point
	for _, transport := range transports {
		for _, op := range ops {
			for _, size := range sizes {
				all = append(all, point{transport, op, size, 1}, point{transport, op, size, min(deep, inFlightBytes/size)})
			}
		}
		// Bulk gets at the depth at which a store is to come close to the limit.
		all = append(all, point{transport, "get", 64 << 10, 16}, point{transport, "get", 1 << 20, 4})
	}
	return all
}

// shortPoints are enough to see that everything works.
func shortPoints() []point {
	return []point{
		{"tcp", "get", 64, 1}, {"tcp", "put", 4 << 10, 64}, {"tcp", "get", 1 << 20, 4},
		{"shm", "get", 64, 64}, {"shm", "put", 64 << 10, 4},
	}
}

// matching returns the points whose names match.
func matching(points []point, expression string) ([]point, error) {
	re, err := regexp.Compile(expression)
	if err != nil {
		return nil, err
	}
	var some []point
	for _, p := range points {
		if re.MatchString(p.String()) {
			some = append(some, p)
		}
	}
	if len(some) == 0 {
		return nil, fmt.Errorf("no point matches %q; they are called like %v", expression, points[0])
	}
	return some, nil
}

func bytesText(n int) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%dMiB", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%dKiB", n>>10)
	}
	return fmt.Sprintf("%dB", n)
}
