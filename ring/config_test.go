package ring

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/dramnode/dramnode"
)

func TestStrategyText(t *testing.T) {
	for _, s := range []Strategy{Hash, Range, Explicit} {
		if got, err := ParseStrategy(s.String()); got != s || err != nil {
			t.Errorf("ParseStrategy(%q) = %v, %v", s.String(), got, err)
		}
	}
	for _, text := range []string{"", "Hash", "strategy(3)"} {
		if _, err := ParseStrategy(text); !errors.Is(err, dramnode.ErrInvalid) {
			t.Errorf("ParseStrategy(%q): %v, want ErrInvalid", text, err)
		}
	}
}

func TestValidateNamesEveryFault(t *testing.T) {
	long := strings.Repeat("x", dramnode.MaxKeyBytes+1)
	for _, test := range []struct {
		config Config
		want   []string
	}{
		{Config{}, nil},
		{Config{Partitions: MaxPartitions}, nil},
		{Config{Partitions: 1, Strategy: Explicit}, nil},
		{Config{Strategy: Range}, nil},
		{Config{Partitions: -1, Strategy: 9}, []string{"strategy(9)", "partitions = -1"}},
		{Config{Partitions: MaxPartitions + 1}, []string{"partitions = 65536"}},
		{Config{Partitions: MaxPartitions, Strategy: Explicit, Rules: []Rule{{"p", "n"}}}, []string{"65536 partitions in total"}},
		{Config{Splits: [][]byte{{1}}, Rules: []Rule{{"p", "n"}}}, []string{"1 split points", "1 rules"}},
		{Config{Strategy: Range, Splits: [][]byte{{}, []byte("b"), []byte("b"), []byte("a"), []byte(long)}},
			[]string{"split 0", "split 2", "split 3", "split 4"}},
		{Config{Strategy: Explicit, Rules: []Rule{{"", "n"}, {"p", ""}, {"p", "n"}, {long, long}}},
			[]string{"rule 0", "rule 1", "rules 1 and 2", "rule 3: the prefix", "the node's name has 4097"}},
		{Config{Strategy: Range, Splits: make([][]byte, MaxPartitions)}, []string{"65536 partitions in total"}},
	} {
		err := test.config.Validate()
		if (err == nil) != (len(test.want) == 0) {
			t.Errorf("Validate(%.100v): %v", test.config, err)
			continue
		}
		if err != nil && !errors.Is(err, dramnode.ErrInvalid) {
			t.Errorf("%v: want ErrInvalid", err)
		}
		for _, want := range test.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("the error %.300q does not name %q", err, want)
			}
		}
		if m, newErr := New(test.config); (m == nil) != (err != nil) || (newErr == nil) != (err == nil) {
			t.Errorf("New: %v, Validate: %v", newErr, err)
		}
	}
}

func TestCount(t *testing.T) {
	for _, test := range []struct {
		config Config
		want   int
	}{
		{Config{}, 1031},
		{Config{Partitions: 7}, 7},
		{Config{Partitions: 7, Strategy: Range}, 1},
		{Config{Strategy: Range, Splits: [][]byte{{1}, {2}}}, 3},
		{Config{Partitions: 7, Strategy: Explicit, Rules: []Rule{{"a", "n"}}}, 8},
	} {
		if got := test.config.Count(); got != test.want {
			t.Errorf("%v has %d partitions, want %d", test.config, got, test.want)
		}
	}
}

// The digest is part of the protocol: members of different builds compare it.
func TestDigestIsStable(t *testing.T) {
	if got := (Config{}).Digest(); got != 0x36a086580ab18c02 {
		t.Errorf("the digest of the default settings is now %#x", got)
	}
}

func TestDiff(t *testing.T) {
	explicit := func(rules ...Rule) Config { return Config{Strategy: Explicit, Rules: rules} }
	split := func(s ...string) (c Config) {
		c.Strategy = Range
		for _, s := range s {
			c.Splits = append(c.Splits, []byte(s))
		}
		return c
	}
	for _, test := range []struct {
		here, there Config
		want        string
	}{
		{Config{}, Config{Partitions: 1031}, ""},
		{split("a"), Config{Strategy: Range, Partitions: 5, Splits: [][]byte{[]byte("a")}}, ""},
		{Config{}, Config{Partitions: 271}, "partitions 1031 here, 271 there"},
		{Config{}, Config{Partitions: 5, Strategy: Range}, "strategy hash here, range there"},
		{split("a"), split("a", "b"), "number of split points 1 here, 2 there"},
		{split("a", "c"), split("a", "d"), `split 1 "c" here, "d" there`},
		{explicit(Rule{"a", "n"}), explicit(), "number of rules 1 here, 0 there"},
		{explicit(Rule{"a", "n"}), explicit(Rule{"a", "m"}), `rule 0 "a"=n here, "a"=m there`},
		{Config{Partitions: 5}, explicit(), "strategy hash here, explicit there; partitions 5 here, 1031 there"},
	} {
		if got := test.here.Diff(test.there); got != test.want {
			t.Errorf("Diff = %q, want %q", got, test.want)
		}
	}
}

// drawConfig yields valid settings.
func drawConfig(t *rapid.T) Config {
	c := Config{
		Partitions: rapid.IntRange(0, 40).Draw(t, "partitions"),
		Strategy:   Strategy(rapid.IntRange(0, 2).Draw(t, "strategy")),
	}
	texts := rapid.SliceOfNDistinct(rapid.StringMatching("[ab]{1,4}"), 0, 12, rapid.ID[string]).Draw(t, "texts")
	switch c.Strategy {
	case Range:
		for _, text := range sortedTexts(texts) {
			c.Splits = append(c.Splits, []byte(text))
		}
	case Explicit:
		for _, text := range texts {
			c.Rules = append(c.Rules, Rule{text, rapid.SampledFrom([]string{"n1", "n2", "n3"}).Draw(t, "node")})
		}
	}
	return c
}

func TestCodecAndDigest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawConfig(t), drawConfig(t)
		back, err := ParseConfig(a.Append(nil))
		if err != nil || !reflect.DeepEqual(back, a.canonical()) {
			t.Fatalf("%v became %v, %v", a, back, err)
		}
		if same := a.Diff(b) == ""; same != (a.Digest() == b.Digest()) || same != reflect.DeepEqual(a.canonical(), b.canonical()) {
			t.Fatalf("digests %#x and %#x, but the difference is %q", a.Digest(), b.Digest(), a.Diff(b))
		}
	})
}

func FuzzParseConfig(f *testing.F) {
	f.Add(Config{}.Append(nil))
	f.Add(Config{Strategy: Range, Splits: [][]byte{[]byte("a"), []byte("b")}}.Append(nil))
	f.Add(Config{Strategy: Explicit, Rules: []Rule{{"a", "n"}, {"ab", "m"}}}.Append(nil))
	f.Add([]byte{codecVersion, 1, 0, 0, 255, 255, 255, 255, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseConfig(b)
		if err != nil {
			if !errors.Is(err, dramnode.ErrInvalid) {
				t.Errorf("%v: want ErrInvalid", err)
			}
			return
		}
		if again := c.Append(nil); !bytes.Equal(again, b) {
			t.Errorf("re-encoded settings are %x, want %x", again, b)
		}
	})
}
