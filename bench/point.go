package main

import (
	"fmt"
	"regexp"
)

// A point is what all contenders do the same of.
type point struct {
	Transport   string `json:"transport"`   // tcp or shm
	Op          string `json:"op"`          // get or put
	Size        int    `json:"size"`        // bytes of a value
	Outstanding int    `json:"outstanding"` // operations under way per connection
	Connections int    `json:"connections"`
}

func newPoint(transport, op string, size, outstanding int) point {
	return point{transport, op, size, outstanding, 1}
}

func (p point) String() string {
	name := fmt.Sprintf("%s/%s/%s/x%d", p.Transport, p.Op, bytesText(p.Size), p.Outstanding)
	if p.Connections > 1 {
		name += fmt.Sprintf("/c%d", p.Connections)
	}
	return name
}

// single reports whether there is one operation at a time, so that latency is what counts.
func (p point) single() bool { return p.Outstanding*p.Connections == 1 }

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

	// Over which redis is at its best somewhere, for values of gridSize over tcp.
	gridConnections = []int{1, 8, 50}
	gridOutstanding = []int{1, 16, deep, 256}
)

const gridSize = 64

// inGrid reports whether p belongs to the table over connections and pipelines.
func (p point) inGrid() bool { return p.Transport == "tcp" && p.Size == gridSize }

// inSeries reports whether p belongs to the tables over lengths of values.
func (p point) inSeries() bool {
	return p.Connections == 1 && (p.Size != gridSize || p.Outstanding == 1 || p.Outstanding == deep)
}

// allPoints returns the grid: each size with one operation under way and with many.
func allPoints() []point {
	var all []point
	for _, transport := range transports {
		for _, op := range ops {
			for _, size := range sizes {
				all = append(all, newPoint(transport, op, size, 1), newPoint(transport, op, size, min(deep, inFlightBytes/size)))
			}
		}
		// Bulk gets at the depth at which a store is to come close to the limit.
		all = append(all, newPoint(transport, "get", 64<<10, 16), newPoint(transport, "get", 1<<20, 4))
	}
	for _, op := range ops {
		for _, connections := range gridConnections {
			for _, outstanding := range gridOutstanding {
				if p := (point{"tcp", op, gridSize, outstanding, connections}); !p.inSeries() { // those are there
					all = append(all, p)
				}
			}
		}
	}
	return all
}

// shortPoints are enough to see that everything works.
func shortPoints() []point {
	return []point{
		newPoint("tcp", "get", 64, 1), newPoint("tcp", "put", 4<<10, 64), newPoint("tcp", "get", 1<<20, 4), {"tcp", "put", 64, 16, 8},
		newPoint("shm", "get", 64, 64), newPoint("shm", "put", 64<<10, 4),
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
