// Package ring says which partition a key belongs to, and which nodes should hold a partition.
//
// It is pure: the same settings and the same set of members give the same answer on every node, in
// any order and at any time. It starts nothing, keeps no slice it is given and changes nothing after
// New. It yields targets only; who serves a partition now is in the table (package control).
package ring
