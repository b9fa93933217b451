package replica

import (
	"math"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control/state"
	"github.com/dramnode/dramnode/wire"
)

// The control plane's words: who, which configuration, and what it says about one partition. A row is shared and never
// changed.
type (
	ID    = state.Incarnation
	Epoch = state.Epoch
	Row   = state.Row
)

// A Kind is what a message says.
type Kind uint8

const (
	Prepare     Kind = iota + 1 // primary: version Gen of Key is pending
	Ack                         // it is, or it is superseded
	Need                        // the replica lacks the value of version Gen: send it along
	Commit                      // primary: version Gen is committed
	CommitAck                   // it is
	Floor                       // primary: Floor, and nothing else
	Floored                     // noted: Gen
	Stage                       // primary: keep this value under Staged until its Prepare comes
	StageAck                    // it is kept
	StageRefuse                 // there is no room for it
	Query                       // backup: which version of Key is committed?
	Answer                      // primary: Gen
	Seal                        // new primary: adopt Row
	Sealed                      // adopted; Items are the keys with a pending version
	Sync                        // new primary: Base is committed and Version pending
	SyncAck                     // so they are here
	Chunk                       // primary to learner: a Page, with Items or Memory
	ChunkAck                    // learner: done with the Page; Items are what it says to it
	Fill                        // primary to learner: a value that it lacks
	Filled                      // it has it
)

// A Message goes from one replica of a partition to another. Who sends it sees to the partition, the cluster and
// the two lives in it; a message for another life must not be delivered. Slices are read only: those of a message that is
// stepped may be modified once its effects are done with, those of an effect are valid until the next step.
type Message struct {
	Kind     Kind
	From, To ID
	Epoch    Epoch
	Assign   uint64              // of messages from and to a learner; 0 between replicas in sync
	Floor    dramnode.Generation // from the primary: every version below it is resolved at the receiver
	Key      []byte
	Gen      dramnode.Generation
	Version  Copy
	Base     Copy   // Sync
	Staged   uint64 // Stage and its answers; Prepare: the value came with that Stage
	Stages   uint64 // from the primary: it is done with every Stage below
	Number   uint64 // Query, Sync and their answers: which one
	Row      *Row   // Seal
	Items    []Item // Sealed, Chunk, ChunkAck
	Page     Page   // Chunk, ChunkAck
	Memory   []Memo // Chunk with Page.Memory
	Used     uint8  // Ack, StageAck, StageRefuse, Floored: how much of the sender's memory is in use, in percent; who sends it fills it in
	Crowded  bool   // likewise: the sender's Records are full
}

// A Copy is a version on its way. When it is Carried, the sender's blob is read while the message is sent, and
// the receiver is given a blob of its own that belongs to the engine.
type Copy struct {
	Gen     dramnode.Generation
	Deleted bool
	Carried bool
	Same    dramnode.Generation // not 0: the value is that of this older version
	Value   Value
	TTL     int64 // nanoseconds that are left; 0: for ever
	Origin  Origin
}

// An Item names a key with its versions.
type Item struct {
	Key     []byte
	Version Copy                // committed, never Carried
	Pending dramnode.Generation // 0: none
}

// A Page is what a Chunk and its answer are about.
type Page struct {
	Part Part
	From uint64              // PartMemory: a client's id; else a Cursor
	Next uint64              // where the next page of this part begins; PartHeld: the learner says it
	End  bool                // this page is the last of its part
	AsOf dramnode.Generation // PartNames: the highest generation given out when it was made
}

// A Part is one of the three things a primary and a learner go through, in this order.
type Part uint8

const (
	PartMemory Part = iota + 1 // the remembered writes
	PartHeld                   // what the learner has: its answer names it, and the next Chunk what it has to remove
	PartNames                  // what the primary has: the answer names what the learner lacks
)

// An Origin identifies a write over all its retries; a Client of 0 identifies nothing.
type Origin struct {
	Client, Counter uint64
	FirstUnacked    uint64 // every counter below it is answered and will not be retried
}

// MaxTTL is the longest life of an entry in nanoseconds. It leaves the clock 18 years.
const MaxTTL = math.MaxInt64 - 1<<59

// A Request is an operation of a client at this replica. Key and End are read only, and need not be valid after the step. The blob in
// Value is the engine's, and may be one that is only lent: see Store.
type Request struct {
	Kind    wire.Kind // get, put, delete, touch or delete-range
	Token   uint64    // comes back in the Reply
	Epoch   Epoch     // of the row that the sender knows; writes must have the current one
	Key     []byte    // of a delete-range its first key, nil for the first of the partition
	End     []byte    // of a delete-range the key before which it ends, nil for none
	Origin  Origin
	IfMatch bool // writes: fail unless the key's generation is IfGen
	IfGen   dramnode.Generation
	TTL     int64 // nanoseconds; 0: for ever
	Value   Value
}

// A Reply ends a request. An Observed reply rests on the lease: it counts only if Confirm holds afterwards, and else the
// answer is Otherwise.
type Reply struct {
	Token     uint64
	Status    wire.Status
	Gen       dramnode.Generation // read or written, or with wire.StatusGenerationMismatch the current one
	Value     Value               // of a get: stored memory, to be leased before the next Step
	Deadline  int64               // of a get; 0: never
	Count     uint64              // of a delete-range
	NoRecord  bool                // with wire.StatusBusy: there is no room to remember the write, see Node.Records
	Observed  bool
	Otherwise wire.Status
	Epoch     Epoch // what Confirm is to be asked with
}

// An Ask is what a replica wants of the control plane. It is asked again until a row shows the answer.
type Ask struct {
	Kind   AskKind
	Epoch  Epoch
	Peer   ID     // AskReport: who is silent; AskPromote: the learner
	Assign uint64 // AskPromote
}

// An AskKind is the kind of an Ask.
type AskKind uint8

const (
	AskActivate AskKind = iota + 1 // the replicas in sync are sealed and agree
	AskPromote                     // the learner has everything, and counts from now on
	AskReport                      // Peer does not answer, or cannot comply
	AskEpoch                       // the generations of this epoch are used up
)

// Effects are what a step wants done: messages to send, replies to give, the control plane to ask. A caller
// reuses one value: Reset empties it.
type Effects struct {
	Sends   []Message
	Replies []Reply
	Asks    []Ask
}

// TakeReply takes out the reply to the request with this token, if there is one. It is valid until the next step.
func (e *Effects) TakeReply(token uint64) *Reply {
	last := len(e.Replies) - 1
	for i := range e.Replies {
		if e.Replies[i].Token == token {
			if i != last {
				e.Replies[i], e.Replies[last] = e.Replies[last], e.Replies[i]
			}
			e.Replies = e.Replies[:last]
			return &e.Replies[:last+1][last]
		}
	}
	return nil
}

// Reset empties e and keeps its memory.
func (e *Effects) Reset() {
	clear(e.Sends)
	e.Sends, e.Replies, e.Asks = e.Sends[:0], e.Replies[:0], e.Asks[:0]
}
