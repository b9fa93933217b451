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
// ends, when it was certainly not applied, and reads also when nobody knows; so an ErrUnavailable or
// ErrBusy has been tried for that long.
//
// # Who owns memory
//
// Keys and values belong to the caller and are not kept when a method returns, also when its context
// ended early; what Get returns is the caller's. Values longer than transport.CopyBytes travel through
// Config.MemoryBytes of registered memory: Put copies into it and Get out of it. GetBuffer, NewBuffer
// and PutBuffer spare these copies and hand the memory itself out.
package client
