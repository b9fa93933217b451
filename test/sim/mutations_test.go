//go:build mutations

package sim

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/dramnode/dramnode/internal/rule"
)

var limit = flag.Uint64("limit", 200_000, "seeds to try for each rule")

// TestMutations removes one rule after the other: within -limit seeds the simulator must notice.
func TestMutations(t *testing.T) {
	for _, r := range allRules {
		if *without != "" && string(r) != *without {
			continue
		}
		start := time.Now()
		rule.Remove(r)
		found, _, n := search(*first, *first+*limit, time.Time{}, *inArena, r, true)
		rule.Remove("")
		if len(found) == 0 {
			t.Errorf("%q: not noticed in %d seeds (%v)", r, n, time.Since(start).Round(time.Second))
			fmt.Fprintf(os.Stderr, "| %s | not in %d | |\n", r, n)
			continue
		}
		seed, fault := found[0].Seed, found[0].Faults[0]
		for _, f := range found {
			if f.Seed < seed {
				seed, fault = f.Seed, f.Faults[0]
			}
		}
		if i := strings.IndexByte(fault, '\n'); i > 0 {
			fault = fault[:i]
		}
		fmt.Fprintf(os.Stderr, "| %s | %d | %.110s |\n", r, seed-*first+1, fault)
	}
}

var allRules = []rule.Rule{
	rule.LeaseOnRead, rule.AllAck, rule.AckSetFromControl,
	rule.PromotingCounts, rule.ScanBeforePromote, rule.LearnerAcksCommitted, rule.NeverAbort, rule.TimeoutIsUnknown, rule.ReadCommitted,
	rule.DirtyAsksPrimary, rule.PrepareEpoch, rule.SealFirst, rule.ResolveDirty, rule.RollForward, rule.ActivateByControl,
	rule.ForgetOnAssign, rule.ForgetOnlyOnAssign, rule.CommitByPrepare, rule.FloorOnPrepare,
	rule.TombstoneToFloor, rule.TombstoneOnLearner, rule.ScanRemoves, rule.ScanKeepsNewer, rule.DedupLocal, rule.DedupReplicated,
	rule.DedupScanned, rule.DedupRefused, rule.DedupObserved, rule.DedupKept, rule.FenceOnWrite, rule.ExpireByDelete, rule.ExpireAtPrimary,
	rule.RangeBound, rule.RangeRecorded,
	rule.Fence, rule.FromActivated, rule.AssignMatches, rule.LeaseFromSend, rule.LeaseWithTable, rule.NewLeaderWaits, rule.QuorumRound,
	rule.NewLifeNewID,
	// Those that take longest.
	rule.LeaseAfterCapture, rule.EpochAfterCapture, rule.LeaseWhenAlone, rule.AssignUnique, rule.SyncBeforeActive,
	rule.DedupOvertaken, rule.LossClears, rule.CondemnedNoLease, rule.DriftAllowed, rule.EpochMatches, rule.ActivateAlive,
	rule.RetryWithinLoss,
}
