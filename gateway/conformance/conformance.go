// Package conformance holds the rules that everything keeps through which the values of a cluster can be
// reached: the client, and each face by its own protocol. They are the checks that TensorStore makes of a key
// value store (its kvstore test utilities), numbered 1 to 50, over a small Adapter. A face that cannot express a
// rule says why, and the rule is skipped.
package conformance

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/dramnode/dramnode"
)

// A Generation names one version of a key, in whatever form the protocol has.
type Generation string

// Generations that every adapter knows. As a condition, Unknown is none; as the outcome of a write, it says that
// the condition did not hold.
const (
	Unknown Generation = ""
	NoValue Generation = "no value"
)

// A Feature is something that a protocol may lack.
type Feature string

// What a protocol may lack.
const (
	Generations      Feature = "generations"             // and conditions on them
	IfAbsent         Feature = "writes if absent"        // that is, Write with NoValue
	ReadConditions   Feature = "conditions on reads"     //
	ConditionalWrite Feature = "conditional writes"      // on a generation
	ConditionalDrop  Feature = "conditional deletes"     //
	ReadNoValue      Feature = "reads if absent"         // that is, a read's condition NoValue
	OutOfRange       Feature = "ranges that do not clip" //
	Ranges           Feature = "ranges"                  //
	Lists            Feature = "lists"                   //
	DeleteRanges     Feature = "deleting ranges"         // which need not be atomic
	ServerTime       Feature = "time of reads"           // and bounds on how old they may be
	LargeValues      Feature = "values of 2 MiB"         //
)

// A State is what a read found.
type State int

const (
	Missing State = iota
	Aborted       // a condition did not hold
	Value
)

// All is the End of a Read that goes to the value's end.
const All = -1

// A Read is what to read. Start and End are as in client.Range; Last reads so many last bytes instead.
type Read struct {
	Key                 string
	IfEqual, IfNotEqual Generation
	Start, End, Last    int64
	Whole               bool // no range
	Fresh               bool // current as of now, with the time to show for it
}

// A Result is what a read returns. Generation is NoValue when it is Missing.
type Result struct {
	State      State
	Generation Generation
	Bytes      []byte
	Time       time.Time // at which it was current; zero without Read.Fresh
}

// An Entry is one key of a list.
type Entry struct {
	Key  string
	Size int64
}

// An Adapter reaches an empty store. A range of keys is [min, max), an empty max has no end.
type Adapter interface {
	// Read fails with dramnode.ErrOutOfRange when the range does not lie within the value.
	Read(ctx context.Context, r Read) (Result, error)

	// Write returns the new generation, or Unknown when condition does not hold.
	Write(ctx context.Context, key string, value []byte, condition Generation) (Generation, error)

	// Delete returns a known generation, or Unknown when condition does not hold.
	Delete(ctx context.Context, key string, condition Generation) (Generation, error)

	DeleteRange(ctx context.Context, min, max string) error

	// List calls yield for each key, in any order, until it returns false.
	List(ctx context.Context, min, max string, yield func(Entry) bool) error

	// Foreign is a generation that no key has.
	Foreign() Generation

	// Lacks says why the protocol cannot express f, "" when it can.
	Lacks(f Feature) string
}

const (
	someValue  = "_kvstore_value_"
	otherValue = "._-=+=-_."
)

// Run checks every rule on an adapter whose store is, and is left, empty.
func Run(t *testing.T, a Adapter) {
	s := &suite{a: a, ctx: t.Context()}
	for _, group := range []struct {
		name  string
		rules []rule
	}{
		{"read", readRules}, {"missing", missingRules}, {"batch", batchRules}, {"write", writeRules}, {"delete", deleteRules},
		{"deleteRange", deleteRangeRules}, {"list", listRules}, {"more", moreRules},
	} {
		t.Run(group.name, func(t *testing.T) {
			for _, r := range group.rules {
				t.Run(r.name, func(t *testing.T) { s.check(t, r) })
			}
		})
	}
}

// A rule is one or more points of the list. Its check gets keys of its own, by a prefix.
type rule struct {
	name  string
	needs []Feature
	check func(k *keys)
}

type suite struct {
	a   Adapter
	ctx context.Context
}

func (s *suite) check(t *testing.T, r rule) {
	for _, f := range r.needs {
		if why := s.a.Lacks(f); why != "" {
			t.Skipf("no %s: %s", f, why)
		}
	}
	k := &keys{T: t, suite: s}
	defer k.clean()
	r.check(k)
}

// keys are a test's way to the store, with every error fatal.
type keys struct {
	*testing.T
	*suite
	used map[string]bool
}

// clean deletes the keys that the rule has written.
func (k *keys) clean() {
	for key := range k.used {
		if _, err := k.a.Delete(k.ctx, key, Unknown); err != nil {
			k.Errorf("cleaning up %q: %v", key, err)
		}
	}
}

func whole(key string) Read                  { return Read{Key: key, Whole: true} }
func part(key string, start, end int64) Read { return Read{Key: key, Start: start, End: end} }

func (k *keys) read(r Read) Result {
	k.Helper()
	got, err := k.a.Read(k.ctx, r)
	if err != nil {
		k.Fatalf("read %+v: %v", r, err)
	}
	return got
}

// want reads and compares. An empty generation is not compared.
func (k *keys) want(r Read, state State, g Generation, bytes string) Result {
	k.Helper()
	got := k.read(r)
	if got.State != state || state == Value && string(got.Bytes) != bytes || state != Value && len(got.Bytes) > 0 {
		k.Errorf("read %+v: state %d with %q, want %d with %q", r, got.State, got.Bytes, state, bytes)
	}
	if k.a.Lacks(Generations) == "" {
		switch {
		case state == Missing && got.Generation != NoValue:
			k.Errorf("read %+v: generation %q of a missing key", r, got.Generation)
		case state != Missing && (got.Generation == Unknown || got.Generation == NoValue):
			k.Errorf("read %+v: generation %q of a value", r, got.Generation)
		case g != Unknown && got.Generation != g:
			k.Errorf("read %+v: generation %q, want %q", r, got.Generation, g)
		}
	}
	return got
}

func (k *keys) outOfRange(r Read) {
	k.Helper()
	if got, err := k.a.Read(k.ctx, r); !errors.Is(err, dramnode.ErrOutOfRange) {
		k.Errorf("read %+v: %+v, %v; want out of range", r, got, err)
	}
}

func (k *keys) note(key string) {
	if k.used == nil {
		k.used = map[string]bool{}
	}
	k.used[key] = true
}

func (k *keys) write(key, value string, condition Generation) Generation {
	k.Helper()
	k.note(key)
	g, err := k.a.Write(k.ctx, key, []byte(value), condition)
	if err != nil {
		k.Fatalf("write %q: %v", key, err)
	}
	if g == NoValue {
		k.Errorf("write %q: generation %q", key, g)
	}
	return g
}

// must writes without a condition and returns a known generation.
func (k *keys) must(key, value string) Generation {
	k.Helper()
	g := k.write(key, value, Unknown)
	if g == Unknown {
		k.Fatalf("write %q: no generation", key)
	}
	return g
}

func (k *keys) drop(key string, condition Generation) Generation {
	k.Helper()
	g, err := k.a.Delete(k.ctx, key, condition)
	if err != nil {
		k.Fatalf("delete %q: %v", key, err)
	}
	return g
}
