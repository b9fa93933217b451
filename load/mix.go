package load

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/dramnode/dramnode"
)

// A Kind is a kind of operation.
type Kind uint8

// The kinds. Insert is a put of a key that was not there; Modify is a get and then a put of the same
// key; Scan lists up to MaxScanKeys keys in order.
const (
	Get Kind = iota
	Put
	Insert
	Scan
	Modify
	kinds
)

var kindNames = [kinds]string{"get", "put", "insert", "scan", "modify"}

func (k Kind) String() string { return kindNames[k] }

// MaxScanKeys is the longest scan; lengths are uniform from 1 on.
const MaxScanKeys = 100

// A Mix says how often each kind of operation comes.
type Mix struct {
	Name    string
	Percent [kinds]int // sums to 100
}

// The plain mixes.
var (
	Gets = Mix{Name: "get", Percent: [kinds]int{Get: 100}}
	Puts = Mix{Name: "put", Percent: [kinds]int{Put: 100}}
	Half = Mix{Name: "mix", Percent: [kinds]int{Get: 50, Put: 50}}
)

// YCSB returns the core workload of that letter, a to f, and the choice of keys that belongs to it.
func YCSB(letter string) (Mix, Choice, error) {
	m, choice := Mix{Name: "ycsb-" + strings.ToLower(letter)}, Zipfian
	switch m.Name {
	case "ycsb-a": // session store: update heavy
		m.Percent = [kinds]int{Get: 50, Put: 50}
	case "ycsb-b": // photo tags: read mostly
		m.Percent = [kinds]int{Get: 95, Put: 5}
	case "ycsb-c": // profile cache: read only
		m.Percent = [kinds]int{Get: 100}
	case "ycsb-d": // status updates: read the latest
		m.Percent, choice = [kinds]int{Get: 95, Insert: 5}, Latest
	case "ycsb-e": // threaded conversations: short ranges
		m.Percent = [kinds]int{Scan: 95, Insert: 5}
	case "ycsb-f": // user database: read, modify, write
		m.Percent = [kinds]int{Get: 50, Modify: 50}
	default:
		return m, "", fmt.Errorf("%w: mix %q, want a to f", dramnode.ErrInvalid, letter)
	}
	return m, choice, nil
}

// has reports whether the mix contains any of these kinds.
func (m Mix) has(any ...Kind) bool {
	for _, k := range any {
		if m.Percent[k] > 0 {
			return true
		}
	}
	return false
}

func (m Mix) valid() bool {
	sum := 0
	for _, p := range m.Percent {
		if p < 0 {
			return false
		}
		sum += p
	}
	return sum == 100
}

// pick returns a kind at random. A mix of one kind costs no random number.
func (m *Mix) pick(random *rand.Rand) Kind {
	at := -1
	for k, p := range m.Percent {
		if p == 100 {
			return Kind(k)
		}
		if p == 0 {
			continue
		}
		if at < 0 {
			at = random.IntN(100)
		}
		if at -= p; at < 0 {
			return Kind(k)
		}
	}
	return Get // Validate keeps mixes out that do not sum to 100
}
