//go:build mutations

package rule

// Mutable says whether this build can remove a rule.
const Mutable = true

var removed Rule

// Remove makes Off(r) true and every other rule hold; "" restores all. Call it while nothing else runs.
func Remove(r Rule) { removed = r }

// Off reports whether r was removed.
func Off(r Rule) bool { return r == removed }
