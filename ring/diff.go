package ring

import (
	"bytes"
	"fmt"
	"strings"
)

// Diff says for people how the settings differ, such as "partitions 1031 here, 271 there". It is
// empty when they are equal.
func (c Config) Diff(other Config) string {
	here, there := c.canonical(), other.canonical()
	var parts []string
	add := func(what string, here, there any) {
		parts = append(parts, fmt.Sprintf("%s %v here, %v there", what, here, there))
	}
	if here.Strategy != there.Strategy {
		add("strategy", here.Strategy, there.Strategy)
	}
	if here.Partitions != there.Partitions && here.Strategy != Range && there.Strategy != Range {
		add("partitions", here.Partitions, there.Partitions)
	}
	if len(here.Splits) != len(there.Splits) {
		add("number of split points", len(here.Splits), len(there.Splits))
	} else if i := firstDiff(here.Splits, there.Splits, bytes.Equal); i >= 0 {
		add(fmt.Sprintf("split %d", i), quote(here.Splits[i]), quote(there.Splits[i]))
	}
	if len(here.Rules) != len(there.Rules) {
		add("number of rules", len(here.Rules), len(there.Rules))
	} else if i := firstDiff(here.Rules, there.Rules, func(a, b Rule) bool { return a == b }); i >= 0 {
		add(fmt.Sprintf("rule %d", i), here.Rules[i], there.Rules[i])
	}
	return strings.Join(parts, "; ")
}

// String is the rule as the configuration spells it.
func (r Rule) String() string { return quote([]byte(r.Prefix)) + "=" + r.Node }

func quote(b []byte) string { return fmt.Sprintf("%.64q", b) }

// firstDiff returns the first index at which a and b, of equal length, differ, or -1.
func firstDiff[T any](a, b []T, equal func(a, b T) bool) int {
	for i := range a {
		if !equal(a[i], b[i]) {
			return i
		}
	}
	return -1
}
