package conformance

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// readRules are about a key that has a value.
var readRules = []rule{
	{"01 whole", nil, existing(func(k *keys, g Generation) { k.want(whole("k"), Value, g, someValue) })},
	{"02 from an offset", []Feature{Ranges}, existing(func(k *keys, g Generation) { k.want(part("k", 1, All), Value, g, someValue[1:]) })},
	{"03 last byte", []Feature{Ranges}, existing(func(k *keys, g Generation) {
		k.want(Read{Key: "k", Last: 1}, Value, g, someValue[len(someValue)-1:])
	})},
	{"04 last two bytes", []Feature{Ranges}, existing(func(k *keys, g Generation) {
		k.want(Read{Key: "k", Last: 2}, Value, g, someValue[len(someValue)-2:])
	})},
	{"05 range", []Feature{Ranges}, existing(func(k *keys, g Generation) { k.want(part("k", 1, 3), Value, g, someValue[1:3]) })},
	{"06 empty range", []Feature{Ranges}, existing(func(k *keys, g Generation) {
		k.want(part("k", 1, 1), Value, g, "")
		k.want(part("k", int64(len(someValue)), All), Value, g, "")
		k.want(part("k", 0, 0), Value, g, "") // a stat
	})},
	{"07 beyond the end", []Feature{Ranges, OutOfRange}, existing(func(k *keys, _ Generation) { k.outOfRange(part("k", int64(len(someValue))+1, All)) })},
	{"08 across the end", []Feature{Ranges, OutOfRange}, existing(func(k *keys, _ Generation) { k.outOfRange(part("k", 1, int64(len(someValue))+1)) })},
	{"09 if not equal, equal", []Feature{ReadConditions}, existing(func(k *keys, g Generation) {
		k.want(Read{Key: "k", Whole: true, IfNotEqual: g}, Aborted, g, "")
	})},
	{"10 if not equal, other", []Feature{ReadConditions}, existing(func(k *keys, g Generation) {
		k.want(Read{Key: "k", Whole: true, IfNotEqual: k.a.Foreign()}, Value, g, someValue)
	})},
	{"11 if not equal, no value", []Feature{ReadConditions, ReadNoValue}, existing(func(k *keys, g Generation) {
		k.want(Read{Key: "k", Whole: true, IfNotEqual: NoValue}, Value, g, someValue)
	})},
	{"12 if equal, equal", []Feature{ReadConditions}, existing(func(k *keys, g Generation) {
		k.want(Read{Key: "k", Whole: true, IfEqual: g}, Value, g, someValue)
	})},
	{"13 if equal, other", []Feature{ReadConditions}, existing(func(k *keys, _ Generation) {
		k.want(Read{Key: "k", Whole: true, IfEqual: k.a.Foreign()}, Aborted, Unknown, "")
	})},
	{"14 if equal, no value", []Feature{ReadConditions, ReadNoValue}, existing(func(k *keys, _ Generation) {
		k.want(Read{Key: "k", Whole: true, IfEqual: NoValue}, Aborted, Unknown, "")
	})},
	{"15 no older than now", []Feature{ServerTime}, existing(func(k *keys, g Generation) {
		first := k.want(Read{Key: "k", Whole: true, Fresh: true}, Value, g, someValue)
		second := k.want(Read{Key: "k", Whole: true, Fresh: true}, Value, g, someValue)
		if !second.Time.After(first.Time) {
			k.Errorf("a read as of %v after one as of %v", second.Time, first.Time)
		}
	})},
}

// existing gives check the key k with someValue.
func existing(check func(k *keys, g Generation)) func(*keys) {
	return func(k *keys) { check(k, k.must("k", someValue)) }
}

var missingRules = []rule{
	{"16 plain", nil, func(k *keys) { k.want(whole("k"), Missing, NoValue, "") }},
	{"17 no older than now", []Feature{ServerTime}, func(k *keys) {
		if got := k.want(Read{Key: "k", Whole: true, Fresh: true}, Missing, NoValue, ""); got.Time.IsZero() {
			k.Error("the read does not tell its time")
		}
	}},
	{"18 if not equal, no value", []Feature{ReadConditions, ReadNoValue}, func(k *keys) {
		k.want(Read{Key: "k", Whole: true, IfNotEqual: NoValue}, Missing, NoValue, "")
	}},
	{"19 if not equal, other", []Feature{ReadConditions}, func(k *keys) {
		k.want(Read{Key: "k", Whole: true, IfNotEqual: k.a.Foreign()}, Missing, NoValue, "")
	}},
	{"20 if equal, other", []Feature{ReadConditions}, func(k *keys) {
		if got := k.read(Read{Key: "k", Whole: true, IfEqual: k.a.Foreign()}); got.State == Value {
			k.Errorf("%+v", got)
		}
	}},
}

var batchRules = []rule{{"21 ranges and conditions", []Feature{Ranges}, func(k *keys) {
	random := rand.New(rand.NewPCG(21, 21))
	value := strings.Repeat("0123456789abcdef", 256)
	g := k.must("k", value)
	conditions := k.a.Lacks(ReadConditions) == ""
	for range 100 {
		for range 1 + random.IntN(10) {
			start := random.Int64N(int64(len(value)) + 1)
			end := start + random.Int64N(int64(len(value))-start+1)
			r, state := part("k", start, end), Value
			if conditions {
				switch random.IntN(5) {
				case 0:
					r.IfEqual = g
				case 1:
					r.IfEqual, state = k.a.Foreign(), Aborted
				case 2:
					r.IfNotEqual, state = g, Aborted
				case 3:
					r.IfNotEqual = k.a.Foreign()
				}
			}
			bytes := value[start:end]
			if state == Aborted {
				bytes = ""
			}
			k.want(r, state, g, bytes)
		}
	}
}}}

var writeRules = []rule{
	{"22 missing first", nil, func(k *keys) {
		k.want(whole("k"), Missing, NoValue, "")
		k.want(whole("k"), Value, k.must("k", someValue), someValue)
	}},
	{"23 empty value", nil, func(k *keys) { k.want(whole("k"), Value, k.must("k", ""), "") }},
	{"24 overwrite", nil, func(k *keys) {
		first := k.must("k", someValue)
		g := k.must("k", otherValue)
		k.want(whole("k"), Value, g, otherValue)
		if k.a.Lacks(Ranges) == "" {
			k.want(part("k", 1, 3), Value, g, otherValue[1:3])
		}
		if again := k.must("k", someValue); k.a.Lacks(Generations) == "" && (again == first || again == g || first == g) {
			k.Errorf("generations %q, %q, %q of three writes", first, g, again)
		}
	}},
	{"25 delete", nil, func(k *keys) {
		k.must("k", someValue)
		if g := k.drop("k", Unknown); g == Unknown {
			k.Error("a delete without a condition did not hold")
		}
		k.want(whole("k"), Missing, NoValue, "")
	}},
	{"26 other generation, missing", []Feature{ConditionalWrite}, func(k *keys) {
		if g := k.write("k", someValue, k.a.Foreign()); g != Unknown {
			k.Errorf("written as %q", g)
		}
		k.want(whole("k"), Missing, NoValue, "")
	}},
	{"27 other generation, existing", []Feature{ConditionalWrite}, existing(func(k *keys, g Generation) {
		if other := k.write("k", otherValue, k.a.Foreign()); other != Unknown {
			k.Errorf("written as %q", other)
		}
		k.want(whole("k"), Value, g, someValue)
	})},
	{"28 right generation", []Feature{ConditionalWrite}, existing(func(k *keys, g Generation) {
		next := k.write("k", otherValue, g)
		if next == Unknown || next == g {
			k.Errorf("generation %q after %q", next, g)
		}
		k.want(whole("k"), Value, next, otherValue)
	})},
	{"29 if absent, existing", []Feature{IfAbsent}, existing(func(k *keys, g Generation) {
		if other := k.write("k", otherValue, NoValue); other != Unknown {
			k.Errorf("written as %q", other)
		}
		k.want(whole("k"), Value, g, someValue)
	})},
	{"30 if absent, missing", []Feature{IfAbsent}, func(k *keys) {
		g := k.write("k", someValue, NoValue)
		if g == Unknown {
			k.Error("not written")
		}
		k.want(whole("k"), Value, g, someValue)
	}},
}

var deleteRules = []rule{
	{"31 other generation, missing", []Feature{ConditionalDrop}, func(k *keys) {
		if g := k.drop("k", k.a.Foreign()); g != Unknown {
			k.Errorf("deleted as %q", g)
		}
	}},
	{"32 other generation, existing", []Feature{ConditionalDrop}, existing(func(k *keys, g Generation) {
		if other := k.drop("k", k.a.Foreign()); other != Unknown {
			k.Errorf("deleted as %q", other)
		}
		k.want(whole("k"), Value, g, someValue)
	})},
	{"33 right generation", []Feature{ConditionalDrop}, existing(func(k *keys, g Generation) {
		before, after := k.must("j", otherValue), k.must("l", otherValue)
		if k.drop("k", g) == Unknown {
			k.Error("not deleted")
		}
		k.want(whole("k"), Missing, NoValue, "")
		k.want(whole("j"), Value, before, otherValue)
		k.want(whole("l"), Value, after, otherValue)
	})},
	{"34 if absent, missing", []Feature{ConditionalDrop, ReadNoValue}, func(k *keys) {
		if k.drop("k", NoValue) == Unknown {
			k.Error("the condition does not hold")
		}
	}},
	{"35 if absent, existing", []Feature{ConditionalDrop, ReadNoValue}, existing(func(k *keys, g Generation) {
		if other := k.drop("k", NoValue); other != Unknown {
			k.Errorf("deleted as %q", other)
		}
		k.want(whole("k"), Value, g, someValue)
	})},
	{"36 generation of a read", []Feature{ConditionalDrop}, existing(func(k *keys, _ Generation) {
		if k.drop("k", k.read(whole("k")).Generation) == Unknown {
			k.Error("not deleted")
		}
		k.want(whole("k"), Missing, NoValue, "")
	})},
	{"37 newest by default", nil, func(k *keys) {
		k.want(whole("k"), Missing, NoValue, "")
		for i := range 3 {
			value := fmt.Sprint(someValue, i)
			k.want(whole("k"), Value, k.must("k", value), value)
		}
	}},
}
