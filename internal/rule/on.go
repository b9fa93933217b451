//go:build mutations

package rule

import "slices"

// Mutable says whether this build can remove a rule.
const Mutable = true

var removed []Rule

// Remove makes Off true for these rules and every other rule hold. Call it while nothing else runs.
func Remove(rules ...Rule) { removed = rules }

// Off reports whether r was removed.
func Off(r Rule) bool { return slices.Contains(removed, r) }
