//go:build !mutations

package rule

// Mutable says whether this build can remove a rule.
const Mutable = false

// Remove does nothing in this build.
func Remove(...Rule) {}

// Off is false: every rule holds.
func Off(Rule) bool { return false }
