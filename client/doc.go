// Package client reads and writes the values of a cluster.
//
// It speaks the cluster's own protocol over a transport.Network that the program brings (ucxnet.New in
// a real one, memnet in tests), so it builds without cgo. It fetches the table of owners once, sends each
// request straight to the owner of its key, and fetches the table anew when a node says that it is old.
// When an owner cannot be reached, any other node is asked, which forwards. It decides nothing: where a
// key belongs is in the table (package control), and what an operation means is the nodes' business.
//
// # What an error says
//
// After dramnode.ErrUnknownOutcome a write may have been applied, or may still be. After every other
// error nothing has changed. The client itself sends a request again, until the context or Config.Timeout
// ends, so an ErrUnavailable, ErrNoQuorum or ErrBusy has been tried for that long.
//
// It sends a write again also when nobody knows whether it was applied, for up to 30 s: all attempts have one id, under which
// replicas remember what became of it. A write that was executed by the first attempt is not executed by another, and
// not refused because of its own condition. ErrUnknownOutcome is left for when time ran out, and for when
// the partition was lost between two attempts, since its record was lost with it.
//
// # Where reads go
//
// Each member that has a copy of a partition answers reads of it, always with what was written last. The client
// takes the cheaper of two that it draws, by reads under way and the time that some took, with those of its
// own process or host in front; after a failure it asks another one at once. AllowStale reads are answered
// also by replicas that do not know whether there is something newer.
//
// # One at a time, or many
//
// Get and Put wait; one goroutine gets one answer per round trip, and many goroutines together get many,
// since what they send meanwhile travels together. That is the simple way, and good for some hundred
// goroutines. The others save what a goroutine costs, namely to be woken for each answer:
//
//   - MultiGet and MultiPut, for keys that are known together: one call, one wait. They pay from about eight keys on.
//   - GetFunc and PutFunc, for a stream of many small operations: a function of yours takes each answer where it
//     arrives, and may start the next operation there. The fastest; but the function must not wait, see GetFunc.
//   - StartGet and StartPut, for a few operations beside something else: a Future each.
//
// # Who owns memory
//
// Keys and values belong to the caller and are not kept when a method returns, also when its context
// ended early; what Get returns is the caller's. Values longer than transport.CopyBytes travel through
// Config.MemoryBytes of registered memory: Put copies into it and Get out of it. GetBuffer, NewBuffer
// and PutBuffer spare these copies and hand the memory itself out.
package client
