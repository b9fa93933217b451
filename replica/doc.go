// Package replica replicates one partition: a state machine that is fed messages, rows of the table, requests and
// ticks, and answers with effects. It has no clock, network, goroutine or lock, and never looks at a value.
//
// # Roles
//
// The control plane's row names a primary, the replicas in sync (the primary is one) and perhaps a learner. The
// primary orders writes, one pending version per key: it gives each a generation and sends it to every replica
// in sync and to the learner (Prepare). When all in sync have acknowledged, the write is committed and answered, and the
// commit follows in its own time. A prepared write is never undone: if a replica stays silent the primary asks the
// control plane for a configuration without it. Large values travel before their write is ordered (Stage), so
// a key is taken for one small round trip whatever its value's length.
//
// Every replica in sync answers reads. A key with a pending version is dirty: a backup asks the primary which version is
// committed (Query), and serves its own copy of it. A read counts if the lease and the epoch still hold after the
// version was captured: that is Reply.Observed and Confirm.
//
// # Failover
//
// A row of a higher epoch is adopted at once and for ever: from then on the replica acknowledges nothing of an older one.
// The new primary seals the others (Seal, Sealed), which tells it their dirty keys, makes them hold what it holds
// under each of these (Sync: its pending versions are rolled forward, those it does not have are dropped), asks
// to be activated, and serves once a row says so. Nobody sealed has committed anything since, and who was
// committed before has been acknowledged by the new primary: so no acknowledged write is lost while one
// replica of the last activated row lives.
//
// # Learners
//
// A learner gets every write from its assignment on. It may start with old entries, which it names page by page; the
// primary answers which of them it has to remove. Then the primary names all of its own (Chunk), and the learner asks for
// the values it lacks (Fill). Each scans in the order of its own store. When the learner has everything the primary counts
// it like a replica in sync, and only then asks for its promotion.
//
// # Generations and the floor
//
// A generation is epoch<<32 | counter. The floor is the generation below which every write is resolved: committed, and
// known to be so by each replica. What comes below it is a late duplicate. A tombstone is kept until the floor has
// passed it, and on a learner until it is promoted.
//
// # Retries
//
// A write carries its client's id, a counter and the client's first unanswered counter. The record of a committed write
// travels with it to every replica and is kept until that counter has passed it, or the client was silent for
// Config.DedupLife. No copy of a request may live that long. The counter itself is the node's to know (Records): what it
// passed is true in every partition, so none has to keep it. A sender stamps a write with the epoch of the row that it
// knows and takes a definite failure only from its latest attempt: an earlier one may still arrive.
// What a node's partitions remember is counted on one account (Records) with a limit. A primary takes the room for a record before
// it takes on the write, and refuses the write while there is none, here or with a backup that says so (Message.Crowded). What is
// ordered is remembered by all, whatever the account says, and a learner that has no room is not promoted.
//
// Records are lost with the entries, so once a row counts more losses or doubts than that of an earlier attempt which
// may have been executed, the sender does not try again: the outcome is unknown.
//
// # Time to live
//
// An entry that expired stays until its delete, an ordinary write of the primary, is committed: it is missing for
// nobody before it is missing for all. Whoever meets it at the primary has it deleted first; a backup asks. Messages
// carry what is left of the ttl, so a deadline is only ever moved back by the time on the way.
//
// # What is left to others
//
// Where bytes lie (Store), how they travel and are encoded, which node has which partition and when a lease ends
// (the control plane), the deadlines of requests. One caller at a time steps a partition.
package replica
