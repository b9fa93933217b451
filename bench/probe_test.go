package main

import (
	"errors"
	"testing"
	"time"
)

func TestStalls(t *testing.T) {
	killed := time.Now()
	at := func(ms int) time.Time { return killed.Add(time.Duration(ms) * time.Millisecond) }
	put := func(begun, ended int) probed {
		return probed{due: at(begun), begun: at(begun), ended: at(ended), put: true}
	}
	failed := put(400, 500)
	failed.err = errors.New("no")
	get := put(100, 200)
	get.put = false
	for name, c := range map[string]struct {
		done []probed
		want int // milliseconds
	}{
		"under way at the kill": {[]probed{put(-20, -10), put(-5, 900), put(905, 906)}, 900},
		"answered at the kill":  {[]probed{put(-5, 1), put(2, 1101), put(1102, 1103)}, 1100},
		"gets and failures":     {[]probed{put(-5, 1), get, failed, put(501, 601)}, 600},
		"later":                 {[]probed{put(1, 2), put(3, 4), put(5, 2005)}, 2001},
	} {
		p := probe{done: c.done}
		if got := p.stall(killed); got != time.Duration(c.want)*time.Millisecond {
			t.Errorf("%s: %v, want %d ms", name, got, c.want)
		}
	}
	p := probe{done: []probed{put(-5, 1), failed}}
	if p.wrote(killed) {
		t.Error("a put that began before the kill, or failed, counts as one after it")
	}
	p.done = append(p.done, put(1, 2))
	if !p.wrote(killed) {
		t.Error("a put after the kill does not count")
	}
}

func TestQuantiles(t *testing.T) {
	var ms []time.Duration
	for i := range 1000 {
		ms = append(ms, time.Duration(i+1)*time.Millisecond)
	}
	for q, want := range map[float64]float64{0.5: 500, 0.99: 990, 0.999: 999, 1: 1000} {
		if got := quantile(ms, q); got != want {
			t.Errorf("%v: %v, want %v", q, got, want)
		}
	}
	if quantile(nil, 0.5) != 0 || quantile(ms[:1], 0.999) != 1 {
		t.Error("few values")
	}
}

// Stalls count for the group of their key, latencies by when an operation was due.
func TestGroups(t *testing.T) {
	killed := time.Now()
	op := func(due, took time.Duration) probed {
		return probed{due: killed.Add(due), begun: killed.Add(due), ended: killed.Add(due + took), put: true}
	}
	g := newGroups()
	g.add([]*probe{
		{group: ownsIt, done: []probed{op(-time.Second/2, time.Millisecond), op(time.Millisecond, time.Second)}},
		{group: otherwise, done: []probed{op(-2*time.Second, time.Hour), op(time.Second, 2*time.Millisecond), op(4*time.Second, time.Minute)}},
	}, killed)
	s := g.stats()
	if s[ownsIt].StallMax != 1001 || s[ownsIt].Ops != 1 || s[ownsIt].BeforeMax != 1 || s[backsItUp].Stalls != 0 {
		t.Errorf("%+v", s)
	}
	if s[otherwise].Ops != 1 || s[otherwise].Max != 2 || s[otherwise].BeforeMax != 0 {
		t.Errorf("%+v", s[otherwise])
	}
}
