package wire

var statusNames = [statusEnd]string{
	StatusOK: "ok", StatusNotOwner: "not_owner", StatusInvalid: "invalid", StatusNotFound: "not_found",
	StatusGenerationMismatch: "generation_mismatch", StatusOutOfRange: "out_of_range", StatusTooLarge: "too_large",
	StatusNoMemory: "no_memory", StatusBusy: "busy", StatusUnavailable: "unavailable", StatusUnknownOutcome: "unknown_outcome",
	StatusNoQuorum: "no_quorum", StatusDegraded: "degraded", StatusPartitionLost: "partition_lost",
	StatusClusterConflict: "cluster_conflict", StatusNotAuthorised: "not_authorised", StatusCorrupt: "corrupt", StatusClosed: "closed",
}

// String names s as counters do.
func (s Status) String() string {
	if s < statusEnd {
		return statusNames[s]
	}
	return "status_unknown"
}
