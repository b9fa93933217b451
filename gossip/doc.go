// Package gossip finds the other nodes of a cluster and tells what they say of themselves.
//
// It wraps hashicorp/memberlist. Each node spreads its Meta; each keeps its own table of Members, with
// dead ones for a while. Gossip informs and never decides: who owns a partition, who may vote and
// whether a node is really gone is settled elsewhere (package control), and no two nodes need have the
// same table at the same time.
//
// To memberlist a node is called "name#incarnation", so a restart is a new node at once, on whatever
// address, and the incarnation before it dies by itself. Until then both are in the table.
//
// # Locks
//
// memberlist calls our hooks with its own lock held. Hooks copy what they need, take Gossip.mu, and
// never call memberlist; nothing calls memberlist with Gossip.mu held. memberlist's Members and
// LocalNode race with its own updates, so nothing calls them at all.
package gossip
