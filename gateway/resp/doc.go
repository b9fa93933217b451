// Package resp is the face for Redis clients: RESP2, the string, expire and scan commands.
//
// It translates and decides nothing. A command on single keys becomes operations of one client.Batch; the
// commands of a pipeline share batches, so that the owners of their keys work at the same time, and are
// answered in order. Commands on the same key take effect in order too. What changes a value depending on
// what it was (INCR, APPEND, SET GET ...) is a read and a conditional write, again with a pause until no
// other write came between, and so atomic to every observer.
//
// Every connection is one goroutine with a bounded buffer for what it reads; what is longer is taken from
// a budget that all share. Long values are sent from where they lie. Parsing of whole commands is redcon's; how
// long and how many they may be is checked before (scan.go).
package resp
