// Package rule lets a test remove one rule of the replication protocol at a time, to see whether the simulator notices.
//
// The protocol's code asks Off(r) where rule r decides. In a normal build Off is the constant false and the
// compiler removes the question; with -tags mutations a test names the rule that does not hold.
package rule

// A Rule is one rule of the protocol that a mutation removes.
type Rule string

// Rules of package replica. Each names what holds; docs/consistency-mutations.md says what breaks without it.
const (
	LeaseOnRead          Rule = "a read is confirmed under a lease"
	LeaseAfterCapture    Rule = "the lease is checked after the value was captured"
	EpochAfterCapture    Rule = "the epoch is checked after the value was captured"
	LeaseWhenAlone       Rule = "a primary without backups commits under a lease"
	AllAck               Rule = "every replica in sync acknowledges a write"
	AckSetFromControl    Rule = "a primary never drops a silent backup by itself"
	PromotingCounts      Rule = "a learner counts from the moment its promotion is asked for"
	ScanBeforePromote    Rule = "a learner is promoted after a complete scan"
	LearnerAcksCommitted Rule = "a learner has acknowledged all that was committed before its promotion is asked for"
	NeverAbort           Rule = "a prepared write is never undone"
	TimeoutIsUnknown     Rule = "a write that takes too long has an unknown outcome"
	ReadCommitted        Rule = "a primary returns committed values only"
	DirtyAsksPrimary     Rule = "a backup asks the primary about a key with a pending version"
	PrepareEpoch         Rule = "a backup acknowledges in its own epoch only"
	SealFirst            Rule = "a new primary waits until every replica in sync has sealed"
	ResolveDirty         Rule = "a new primary resolves the pending versions of its backups"
	RollForward          Rule = "a new primary keeps its own pending versions"
	ActivateByControl    Rule = "a new primary serves after the control plane activated it"
	ForgetOnAssign       Rule = "a learner forgets its pending versions"
	ForgetOnlyOnAssign   Rule = "a removed replica keeps its entries until a configuration without it was activated"
	AssignUnique         Rule = "a learner's messages carry the id of its assignment"
	SyncBeforeActive     Rule = "a backup ignores a sync message once the epoch is active"
	CommitByPrepare      Rule = "a prepare commits the version before it"
	FloorOnPrepare       Rule = "a backup ignores what lies below the floor"
	TombstoneToFloor     Rule = "a tombstone lives until the floor passes it"
	TombstoneOnLearner   Rule = "a learner keeps tombstones until it is promoted"
	ScanRemoves          Rule = "a scan removes what the primary does not have"
	ScanKeepsNewer       Rule = "a scan does not replace what is newer"
	DedupLocal           Rule = "a primary remembers the writes it answered"
	DedupReplicated      Rule = "a backup remembers the writes it committed"
	DedupScanned         Rule = "a learner is sent the remembered writes"
	DedupOvertaken       Rule = "a learner remembers a write whose value came before its prepare"
	DedupRefused         Rule = "a write whose record may be gone is not executed"
	DedupObserved        Rule = "a definite failure is remembered too"
	DedupKept            Rule = "a record is kept as long as a copy of its request may live"
	DedupFolded          Rule = "what a client is done with is known when its last record has gone"
	DedupPaused          Rule = "a record does not age while its process stands still"
	FenceOnWrite         Rule = "a write is executed in the epoch it was sent for"
	ExpireByDelete       Rule = "an expired entry is missing once its delete is committed"
	ExpireAtPrimary      Rule = "only the primary expires"
	RangeBound           Rule = "a delete-range spares what is newer than itself"
	RangePending         Rule = "a delete-range deletes what was ordered before it and is not committed yet"
	RangeRecorded        Rule = "a retried delete-range keeps its first bound"
	LossClears           Rule = "a partition that was lost starts empty"
)

// Rules of the control plane.
const (
	Fence            Rule = "a configuration is activated after every removed replica is fenced"
	FromActivated    Rule = "replicas are chosen from the last activated set"
	AssignMatches    Rule = "a promotion names the current assignment"
	LeaseFromSend    Rule = "a lease counts from the sending of its renewal"
	LeaseWithTable   Rule = "a lease is extended together with the table it came with"
	NewLeaderWaits   Rule = "a new leader trusts no missing lease until one lease has passed"
	QuorumRound      Rule = "a leader grants leases after a quorum round begun later"
	CondemnedNoLease Rule = "a node that is about to be suspended gets no lease"
	DriftAllowed     Rule = "the control plane waits longer than the node by the clock drift"
	NewLifeNewID     Rule = "a restarted process has a new identity"
)
