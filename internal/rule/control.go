package rule

// More rules of the control plane, one of admission, and one of those who send writes.
const (
	EpochMatches  Rule = "a command names the epoch that its row is in"
	ActivateAlive Rule = "a configuration is activated while each of its replicas may hold a lease"

	LeaderCaughtUp Rule = "a leader decides once it has applied what earlier ones committed"
	LeaseOnWrite   Rule = "a write is admitted under a lease"

	RetryWithinLoss Rule = "a write that may have been executed is not sent again after a loss"
	RetryForward    Rule = "a write is not sent again for an earlier epoch"
)
