//go:build mutations

package sim

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dramnode/dramnode/internal/rule"
)

var (
	limit = flag.Uint64("limit", 200_000, "seeds to try for each rule")
	quick = flag.Bool("quick", false, "only the rules that are noticed at once: shows that the check works")
)

// TestMutations removes one rule after the other: within -limit seeds the simulator must notice.
func TestMutations(t *testing.T) {
	for _, names := range mutations() {
		start := time.Now()
		rule.Remove(rulesOf(names)...)
		found, _, n := search(*first, *first+*limit, time.Time{}, *inArena, true, true)
		rule.Remove()
		if len(found) == 0 {
			t.Errorf("%q: not noticed in %d seeds (%v)", names, n, time.Since(start).Round(time.Second))
			continue
		}
		r := slices.MinFunc(found, func(a, b Result) int { return cmp.Compare(a.Seed, b.Seed) })
		fault, _, _ := strings.Cut(r.Faults[0], "\n")
		fmt.Fprintf(os.Stderr, "| %s | %d | %.110s |\n", names, r.Seed-*first+1, fault)
	}
}

// mutations returns what to remove, a rule or several at once.
func mutations() (all []string) {
	if *without != "" {
		return []string{*without}
	}
	rules := allRules
	if *quick {
		rules = quickRules
	}
	for _, r := range rules {
		all = append(all, string(r))
	}
	if *quick {
		return all
	}
	for _, p := range pairs {
		all = append(all, string(p[0]+" + "+p[1]))
	}
	return all
}

// quickRules are noticed within a few seeds, one in each part of the protocol.
var quickRules = []rule.Rule{
	rule.AllAck, rule.ReadCommitted, rule.ResolveDirty, rule.ScanBeforePromote, rule.DedupLocal, rule.LeaseWithTable, rule.NewLifeNewID,
}

// pairs are removed together: one does the work of the other.
var pairs = [][2]rule.Rule{
	{rule.LeaseOnWrite, rule.LeaseWhenAlone},
	{rule.LeaderCaughtUp, rule.EpochMatches},
}

// allRules are removed one after the other.
var allRules = []rule.Rule{
	rule.LeaseOnRead, rule.AllAck, rule.AckSetFromControl, rule.PromotingCounts, rule.ScanBeforePromote, rule.LearnerAcksCommitted,
	rule.NeverAbort, rule.TimeoutIsUnknown, rule.ReadCommitted, rule.DirtyAsksPrimary, rule.PrepareEpoch, rule.SealFirst,
	rule.ResolveDirty, rule.RollForward, rule.ActivateByControl, rule.ForgetOnAssign, rule.ForgetOnlyOnAssign, rule.CommitByPrepare,
	rule.FloorOnPrepare, rule.TombstoneToFloor, rule.TombstoneOnLearner, rule.ScanRemoves, rule.ScanKeepsNewer, rule.DedupLocal,
	rule.DedupReplicated, rule.DedupScanned, rule.DedupRefused, rule.DedupObserved, rule.DedupKept, rule.FenceOnWrite,
	rule.ExpireByDelete, rule.ExpireAtPrimary, rule.RangeBound, rule.RangeRecorded, rule.Fence, rule.FromActivated,
	rule.AssignMatches, rule.LeaseFromSend, rule.LeaseWithTable, rule.NewLeaderWaits, rule.QuorumRound, rule.NewLifeNewID,
	rule.LeaseAfterCapture, rule.EpochAfterCapture, rule.AssignUnique, rule.SyncBeforeActive, rule.DedupOvertaken, rule.LossClears,
	rule.CondemnedNoLease, rule.DriftAllowed, rule.ActivateAlive, rule.RetryWithinLoss,
	rule.RetryForward, rule.RangePending, rule.DedupPaused, rule.DedupFolded,
}
