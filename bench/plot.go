package main

import (
	"encoding/xml"
	"fmt"
	"math"
	"strings"
)

// A plot has lines over a few named places; its vertical axis is logarithmic.
type plot struct {
	title, axis string
	places      []string
	lines       []line
}

// A line has one value for each place, 0 for none.
type line struct {
	name   string
	strong bool // ours
	values []spread
}

// plot shows the median and the extremes of each contender: latency when one operation is under way,
// else operations per second.
func (r *report) plot(s section) plot {
	p := plot{title: s.title(), axis: "median latency, us"}
	figure := func(s sample) float64 { return s.P50 }
	if s.kind != single {
		p.axis, figure = "operations per second", func(s sample) float64 { return s.OpsPerS }
	}
	var points []point
	for _, at := range s.points {
		if n := len(points); n > 0 && s.kind != grid && points[n-1].Size == at.Size {
			continue // a second depth
		}
		points = append(points, at)
		p.places = append(p.places, s.label(at))
	}
	for _, ours := range []bool{true, false} {
		for _, name := range r.present(s, ours) {
			l := line{name: name, strong: ours}
			for _, at := range points {
				l.values = append(l.values, r.figures(at, name, figure))
			}
			p.lines = append(p.lines, l)
		}
	}
	return p
}

// In pixels.
const (
	plotWidth, plotHeight     = 860, 440
	plotLeft, plotRight       = 80, 640
	plotTop, plotBottom       = 44, 390
	legendLeft, legendSpacing = 665, 20
)

// colours are told apart by most people with colour blindness too (Okabe and Ito).
var colours = []string{"#0072b2", "#56b4e9", "#004466", "#8899cc", "#d55e00", "#e69f00", "#cc0000", "#009e73", "#66aa55", "#cc79a7", "#885577", "#000000", "#999933"}

// decades returns the powers of ten that hold all values.
func (p plot) decades() (low, high int, ok bool) {
	least, most := math.Inf(1), 0.0
	for _, l := range p.lines {
		for _, v := range l.values {
			if v.n > 0 && v.least > 0 {
				least, most = min(least, v.least), max(most, v.most)
			}
		}
	}
	if most == 0 {
		return 0, 1, false
	}
	low, high = int(math.Floor(math.Log10(least))), int(math.Ceil(math.Log10(most)))
	return low, max(high, low+1), true
}

func (p plot) svg() string {
	d := &drawing{}
	low, high, ok := p.decades()
	x := func(place int) float64 {
		return plotLeft + (float64(place)+0.5)*(plotRight-plotLeft)/float64(max(1, len(p.places)))
	}
	y := func(v float64) float64 {
		return plotBottom - (math.Log10(v)-float64(low))/float64(high-low)*(plotBottom-plotTop)
	}
	d.add(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`,
		plotWidth, plotHeight, plotWidth, plotHeight)
	d.add(`<rect width="%d" height="%d" fill="white"/>`, plotWidth, plotHeight)
	d.add(`<text x="%d" y="24" font-size="15">%s</text>`, plotLeft, escaped(p.title))
	d.add(`<text x="18" y="%d" transform="rotate(-90 18 %d)" text-anchor="middle">%s</text>`, (plotTop+plotBottom)/2, (plotTop+plotBottom)/2, escaped(p.axis))
	for decade := low; ok && decade <= high; decade++ {
		at := y(math.Pow10(decade))
		d.segment(plotLeft, at, plotRight, at, "#dddddd", 1)
		d.label(plotLeft-8, at+4, "end", decadeText(decade))
	}
	for i, place := range p.places {
		d.label(x(i), plotBottom+20, "middle", place)
	}
	for i, l := range p.lines {
		d.line(i, l, x, y)
	}
	d.add("</svg>")
	return d.String()
}

// A drawing is an SVG document in the making.
type drawing struct{ strings.Builder }

func (d *drawing) add(format string, args ...any) { fmt.Fprintf(d, format+"\n", args...) }

func (d *drawing) segment(x1, y1, x2, y2 float64, colour string, width float64) {
	d.add(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="%g"/>`, x1, y1, x2, y2, colour, width)
}

func (d *drawing) label(x, y float64, anchor, text string) {
	d.add(`<text x="%.1f" y="%.1f" text-anchor="%s">%s</text>`, x, y, anchor, escaped(text))
}

// line adds one line with its whiskers and its place in the legend.
func (d *drawing) line(i int, l line, x func(int) float64, y func(float64) float64) {
	colour, width := colours[i%len(colours)], 1.5
	if l.strong {
		width = 3
	}
	var path []string
	for place, v := range l.values {
		if v.n == 0 || v.least <= 0 {
			continue
		}
		path = append(path, fmt.Sprintf("%.1f,%.1f", x(place), y(v.median)))
		d.add(`<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`, x(place), y(v.median), colour)
		d.segment(x(place), y(v.least), x(place), y(v.most), colour, 1)
	}
	d.add(`<polyline points="%s" fill="none" stroke="%s" stroke-width="%g"/>`, strings.Join(path, " "), colour, width)
	at := float64(plotTop + 8 + i*legendSpacing)
	d.segment(legendLeft, at, legendLeft+22, at, colour, width)
	d.label(legendLeft+30, at+4, "start", l.name)
}

func decadeText(decade int) string {
	switch {
	case decade >= 6:
		return fmt.Sprintf("%g M", math.Pow10(decade-6))
	case decade >= 3:
		return fmt.Sprintf("%g k", math.Pow10(decade-3))
	}
	return fmt.Sprintf("%g", math.Pow10(decade))
}

func escaped(s string) string {
	var b strings.Builder
	// A strings.Builder does not fail.
	_ = xml.EscapeText(&b, []byte(s))
	return b.String()
}
