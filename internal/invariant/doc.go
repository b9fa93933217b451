// Package invariant switches costly assertions and the poisoning of freed memory by build tag.
//
// Both are on with -tags invariants and under the race detector, and cost nothing otherwise. Spell
// assertions as an if statement: a variadic helper would allocate even when the assertion holds.
package invariant
