// Package ucxnet is the network of package transport over UCX.
//
// # Who does what
//
// One poller goroutine owns everything that UCX touches: the rails (one UCX worker for tcp, and in a
// second context one for each connection by shared memory, see sharing.go), their endpoints, the tables
// of calls and transfers, and the batches. Other goroutines hand it work through one lock-free stack and
// never enter C. The C side (shim.c) is a list of commands in and a list of events out: a turn of the
// poller is one call of dn_step per rail that is awake, and no Go code runs inside a UCX callback.
//
// Frames of one turn to one endpoint share a message, which is built in place in C memory. One that is full goes
// out at once (dn_submit), so that the peer works on it while the next is being built. A frame
// with a large body travels alone, its body straight from and to Regions; a long body in pieces, which
// take turns with those of other bodies (bulk.go, place.go).
//
// # Who owns memory
//
// UCX only ever sees C memory: Regions, and the poller's message buffers. A buffer or body is given
// back when its send ended, or a grace period after its endpoint was closed by force.
//
// # What it leaves to others
//
// Retries of calls, routing, and the meaning of headers. It does not encrypt: the handshake proves
// that both sides know the cluster key when they connect, and no more.
package ucxnet
