// Package history judges what clients saw of a cluster: whether some order of their operations explains every answer
// (Linearizable, by porcupine), and in linear time, but for sorting, whether generations agree with real time and with
// values (Oracle). The second is for histories that are too long for the first, and says more precisely what is wrong.
package history

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/wire"
)

// Never is the Return of an operation without an answer.
const Never = math.MaxInt64

// An Op is one operation on one key with its outcome. Definite failures other than StatusNotFound and
// StatusGenerationMismatch tell nothing, and do not belong into a history.
type Op struct {
	Client       int
	Kind         wire.Kind // KindGet, KindPut, KindDelete or KindTouch
	Key          string
	Conditional  bool // on IfGeneration
	IfGeneration dramnode.Generation
	Value        uint64 // names what a put wrote or a get saw, each put's another; 0 is no value
	Call, Return int64  // nanoseconds of one clock
	Status       wire.Status
	Generation   dramnode.Generation // written, seen, or the current one of a mismatch
}

// unknown reports whether the operation may have been applied, or may still be.
func (o *Op) unknown() bool { return o.Status == wire.StatusUnknownOutcome }

func (o *Op) write() bool { return o.Kind != wire.KindGet }

func (o Op) String() string {
	what := map[wire.Kind]string{wire.KindGet: "get", wire.KindPut: "put", wire.KindDelete: "delete", wire.KindTouch: "touch"}[o.Kind]
	if o.Conditional {
		what += fmt.Sprintf(" if %x", uint64(o.IfGeneration))
	}
	ret := "never"
	if o.Return != Never {
		ret = time.Duration(o.Return).String()
	}
	return fmt.Sprintf("client %d %s %s value %x: status %d generation %x, from %v to %s", o.Client, what, o.Key, o.Value, o.Status, uint64(o.Generation), time.Duration(o.Call), ret)
}

// An Error says what no right store would have answered.
type Error struct {
	Key   string
	Fault string
	Ops   []Op // on the key, by Call
}

func (e *Error) Error() string { return fmt.Sprintf("history of %q: %s", e.Key, e.Fault) }

// Check judges the history of each key by both means, and returns every fault it finds. limit is for porcupine, for
// each key: a history that takes longer than that is a fault of the test, and reported.
func Check(ops []Op, limit time.Duration) error {
	byKey := map[string][]Op{}
	for _, o := range ops {
		byKey[o.Key] = append(byKey[o.Key], o)
	}
	var faults []error
	for _, key := range slices.Sorted(maps.Keys(byKey)) {
		of := byKey[key]
		slices.SortFunc(of, func(a, b Op) int { return cmp.Compare(a.Call, b.Call) })
		for _, fault := range []string{Oracle(of), Linearizable(of, limit)} {
			if fault != "" {
				faults = append(faults, &Error{Key: key, Fault: fault, Ops: of})
				break
			}
		}
	}
	return errors.Join(faults...)
}
