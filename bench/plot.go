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
	if s.many {
		p.axis, figure = "operations per second", func(s sample) float64 { return s.OpsPerS }
	}
	var points []point
	for _, at := range s.points {
		if n := len(points); n > 0 && points[n-1].Size == at.Size {
			continue // a second depth
		}
		points = append(points, at)
		p.places = append(p.places, at.label())
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
var colours = []string{"#0072b2", "#56b4e9", "#004466", "#8899cc", "#d55e00", "#e69f00", "#cc0000", "#009e73", "#66aa55", "#cc79a7", "#885577"}

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
	var b strings.Builder
	low, high, ok := p.decades()
	x := func(place int) float64 {
		return plotLeft + (float64(place)+0.5)*(plotRight-plotLeft)/float64(max(1, len(p.places)))
	}
	y := func(v float64) float64 {
		return plotBottom - (math.Log10(v)-float64(low))/float64(high-low)*(plotBottom-plotTop)
	}
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" font-family="sans-serif" font-size="12">`+"\n", plotWidth, plotHeight)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/>`+"\n", plotWidth, plotHeight)
	fmt.Fprintf(&b, `<text x="%d" y="24" font-size="15">%s</text>`+"\n", plotLeft, escaped(p.title))
	fmt.Fprintf(&b, `<text x="18" y="%d" transform="rotate(-90 18 %[1]d)" text-anchor="middle">%s</text>`+"\n", (plotTop+plotBottom)/2, escaped(p.axis))
	for decade := low; ok && decade <= high; decade++ {
		at := y(math.Pow10(decade))
		fmt.Fprintf(&b, `<line x1="%d" y1="%.1f" x2="%d" y2="%[2]f" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n", plotLeft, at, plotRight, plotLeft-8, at+4, decadeText(decade))
	}
	for i, place := range p.places {
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle" font-size="11">%s</text>`+"\n", x(i), plotBottom+20, escaped(place))
	}
	for i, l := range p.lines {
		p.draw(&b, i, l, x, y)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// draw adds one line with its whiskers and its place in the legend.
func (p plot) draw(b *strings.Builder, i int, l line, x func(int) float64, y func(float64) float64) {
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
		fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/><line x1="%[1]f" y1="%.1[4]f" x2="%[1]f" y2="%.1[5]f" stroke="%[3]s"/>`+"\n", x(place), y(v.median), colour, y(v.least), y(v.most))
	}
	fmt.Fprintf(b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="%g"/>`+"\n", strings.Join(path, " "), colour, width)
	at := plotTop + 8 + i*legendSpacing
	fmt.Fprintf(b, `<line x1="%d" y1="%d" x2="%d" y2="%[2]d" stroke="%s" stroke-width="%g"/><text x="%d" y="%d">%s</text>`+"\n", legendLeft, at, legendLeft+22, colour, width, legendLeft+30, at+4, escaped(l.name))
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
