// Package load puts a measured load on a store: which operations, on which keys, by which kind of
// caller, as fast as answers come (closed loop) or at a fixed rate (open loop).
//
// In an open loop the latency of an operation counts from the instant at which it was due, not from
// that at which it could be sent, so a store that stalls is charged for all who would have waited
// ("coordinated omission"). In a closed loop a caller sends its next operation when it has an answer,
// so the latencies are those of this many callers and of no fixed arrival rate.
//
// The package knows a store by the interface Store, which Over makes of a *client.Client. It starts
// nothing that it does not join, and prints nothing.
package load
