package resp

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"path"
	"strconv"
	"strings"
	"testing"

	"github.com/tidwall/redcon"
)

func newScanner() scanner {
	return scanner{maxArgs: 1000, maxBulkBytes: 1 << 16, maxCommandBytes: 1 << 18}
}

func TestScanner(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"PING\r\n", "6"}, {"PING\nPING\n", "5"}, {"\r\n", "2"}, {"PIN", "more"}, {"", "more"},
		{"*1\r\n$4\r\nPING\r\n*1", "14"}, {"*0\r\n", "4"}, {"*-1\r\n", "5"}, {"*1\r\n$0\r\n\r\n", "10"},
		{"*1\r\n", "more"}, {"*1\r\n$4\r\nPIN", "more"}, {"*1\r\n$4\r\nPING\r", "more"}, {"*", "more"}, {"*1", "more"}, {"*1\r", "more"},
		{"*1\r\n+4\r\n", "expected '$', got '+'"}, {"*1\r\n\x01", `expected '$', got '\x01'`}, {"$4\r\nPING\r\n", "expected '*', got '$'"},
		{"*x\r\n", "invalid multibulk length"}, {"*1001\r\n", "invalid multibulk length"}, {"*01\r\n", "invalid multibulk length"},
		{"*1\n", "invalid multibulk length"}, {"*\r\n", "invalid multibulk length"}, {"*99999999999999999999\r\n", "invalid multibulk length"},
		{"*" + strings.Repeat("1", 40), "invalid multibulk length"},
		{"*1\r\n$-1\r\n", "invalid bulk length"}, {"*1\r\n$-100\r\n", "invalid bulk length"}, {"*1\r\n$65537\r\n", "invalid bulk length"}, {"*1\r\n$a\r\n", "invalid bulk length"},
		{"*1\r\n$4\r\nPINGxx", "no line end after a bulk of 4 bytes"},
		{strings.Repeat("x", maxInlineBytes+1), "too big inline request"}, {strings.Repeat("x", maxInlineBytes+1) + "\n", "too big inline request"},
		{"*5\r\n" + strings.Repeat("$65536\r\n"+strings.Repeat("v", 65536)+"\r\n", 4), "command of more than 262144 bytes"},
	} {
		for _, step := range []int{1, 7, len(c.in) + 1} { // in pieces, as they may arrive
			s, got := newScanner(), "more"
			for end := 0; end <= len(c.in) && got == "more"; end = min(end+step, max(len(c.in), end+1)) {
				n, err := s.next([]byte(c.in[:end]))
				if err != nil {
					got = strings.TrimPrefix(err.Error(), "Protocol error: ")
				} else if n > 0 {
					got = strconv.Itoa(n)
				}
				if step == 1 && len(c.in) > 1000 && end == 1000 {
					break // long ones only in larger steps
				}
			}
			if got != c.want && !(step == 1 && len(c.in) > 1000) {
				t.Errorf("%.40q in steps of %d: %s, want %s", c.in, step, got, c.want)
			}
		}
	}
}

// FuzzScanner compares the scanner with redcon's parser, which sees the command whole: where the scanner finds
// a command, redcon parses one of the same length, and the way in which the bytes arrive makes no difference.
func FuzzScanner(f *testing.F) {
	for _, in := range []string{"PING\r\n", "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", "*1\r\n$-100\r\n", "GET \"a b\"\r\n", "*1\r\n$0\r\n\r\n", "*0\r\n", "*3\r\n$1\r\n"} {
		f.Add([]byte(in), uint8(1))
	}
	f.Fuzz(func(t *testing.T, in []byte, step uint8) {
		whole := newScanner()
		want, wantErr := whole.next(in)
		pieces, got, err := newScanner(), 0, error(nil)
		for end := 0; end < len(in) && got == 0 && err == nil; {
			end = min(end+int(step)+1, len(in))
			got, err = pieces.next(in[:end])
		}
		if len(in) > 0 && (got != want || (err == nil) != (wantErr == nil)) {
			t.Fatalf("in pieces %d, %v; whole %d, %v", got, err, want, wantErr)
		}
		if wantErr != nil && !errors.Is(wantErr, errProtocol) {
			t.Fatalf("an error of another kind: %v", wantErr)
		}
		if want == 0 {
			return
		}
		complete, args, _, left, parseErr := redcon.ReadNextCommand(in[:want], nil)
		if parseErr == nil && in[0] == '*' && !bytes.HasPrefix(in, []byte("*-")) && (!complete || len(left) != 0) {
			t.Fatalf("redcon sees %q, complete %v, %d bytes left", args, complete, len(left))
		}
	})
}

// FuzzParseInt accepts exactly what strconv writes.
func FuzzParseInt(f *testing.F) {
	for _, in := range []string{"0", "-0", "01", "+1", "9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809", "", "-", "1 "} {
		f.Add(in)
	}
	f.Fuzz(func(t *testing.T, in string) {
		got, ok := parseInt([]byte(in))
		want, err := strconv.ParseInt(in, 10, 64)
		if canonical := err == nil && strconv.FormatInt(want, 10) == in; ok != canonical || ok && got != want {
			t.Errorf("%q: %d, %v; want %d, %v", in, got, ok, want, canonical)
		}
	})
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, text, prefix string
		want                  bool
	}{
		{"", "", "", true}, {"", "a", "", false}, {"*", "", "", true}, {"*", "abc", "", true}, {"a*", "abc", "a", true}, {"a*c", "abbc", "a", true},
		{"a*c", "abbd", "a", false}, {"a?c", "abc", "a", true}, {"a?c", "ac", "a", false}, {"a[b-d]e", "ace", "a", true}, {"a[d-b]e", "ace", "a", true},
		{"a[^b-d]e", "ace", "a", false}, {"a[^b-d]e", "axe", "a", true}, {"a[\\]]b", "a]b", "a", true}, {"a\\*c", "a*c", "a*c", true}, {"a\\*c", "abc", "a*c", false},
		{"a[", "a[", "a", false}, {"a[b", "ab", "a", true}, {"a\\", "a\\", "a\\", true}, {"**b**", "aba", "", true}, {"a**", "a", "a", true}, {"[]a", "a", "", false},
	} {
		if got := glob(c.pattern).match([]byte(c.text)); got != c.want {
			t.Errorf("%q matches %q: %v", c.pattern, c.text, got)
		}
		if got := string(glob(c.pattern).prefix()); got != c.prefix {
			t.Errorf("the prefix of %q is %q, want %q", c.pattern, got, c.prefix)
		}
	}
	// What takes a naive matcher for ever.
	if glob(strings.Repeat("a*", 1000) + "b").match(bytes.Repeat([]byte("a"), 4096)) {
		t.Error("matches")
	}
	for pattern, all := range map[string]bool{"*": true, "a*": true, "a**": true, "a": false, "a*b": false, "?*": false, "[a]*": false, "\\a*": false} {
		if glob(pattern).all() != all {
			t.Errorf("%q takes all with its prefix: %v", pattern, !all)
		}
	}
}

// FuzzGlob compares with path.Match where the two languages agree, and checks prefix and all.
func FuzzGlob(f *testing.F) {
	f.Add("a*[b-d]?", "abcd")
	f.Add("\\*", "*")
	f.Fuzz(func(t *testing.T, pattern, text string) {
		g := glob(pattern)
		got := g.match([]byte(text))
		if got && !strings.HasPrefix(text, string(g.prefix())) {
			t.Errorf("%q matches %q, which lacks its prefix %q", pattern, text, g.prefix())
		}
		if g.all() && got != strings.HasPrefix(text, string(g.prefix())) {
			t.Errorf("%q is said to match all with its prefix, but %q: %v", pattern, text, got)
		}
		if strings.ContainsAny(pattern, "[]\\") || strings.Contains(text, "/") || !ascii(pattern) || !ascii(text) {
			return
		}
		if want, err := path.Match(pattern, text); err == nil && want != got {
			t.Errorf("%q matches %q: %v, want %v", pattern, text, got, want)
		}
	})
}

func ascii(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r > 126 })
}

func TestSpan(t *testing.T) {
	for _, c := range []struct{ start, end, size, from, to int64 }{
		{0, -1, 5, 0, 5}, {1, 3, 5, 1, 4}, {-3, -1, 5, 2, 5}, {-3, -2, 5, 2, 4}, {-100, 100, 5, 0, 5}, {3, 1, 5, 0, 0}, {5, 6, 5, 0, 0},
		{0, 0, 0, 0, 0}, {-1, -5, 5, 0, 0}, {math.MinInt64, math.MaxInt64, 5, 0, 5}, {2, -2, 5, 2, 4}, {0, math.MinInt64, 5, 0, 1}, {-9, -9, 5, 0, 1}, {-8, -9, 5, 0, 0}, {-1, -1, 0, 0, 0},
	} {
		if from, to := span(c.start, c.end, c.size); from != c.from || to != c.to {
			t.Errorf("%d to %d of %d: [%d,%d), want [%d,%d)", c.start, c.end, c.size, from, to, c.from, c.to)
		}
	}
}

func TestTouched(t *testing.T) {
	var s touched
	for range 3 {
		a, b := []byte("a"), []byte("b")
		for i, c := range []struct {
			key         []byte
			write, want bool
		}{{a, false, true}, {a, false, true}, {a, true, false}, {b, true, true}, {b, false, false}, {b, true, false}} {
			if got := s.add(c.key, c.write); got != c.want {
				t.Errorf("step %d: %v", i, got)
			}
		}
		if s.addAll([][]byte{[]byte("c"), a}, 1, true) || s.count != 2 {
			t.Errorf("a conflict of the second key leaves %d keys, want 2", s.count)
		}
		if !s.addAll([][]byte{[]byte("c"), b, []byte("c"), b}, 2, true) || s.count != 3 {
			t.Errorf("the keys of one command: %d, want 3", s.count)
		}
		s.reset()
	}
	for i := range maxBatch {
		if !s.add(fmt.Append(nil, i), true) {
			t.Fatalf("key %d does not fit", i)
		}
	}
	if s.add([]byte("more"), false) {
		t.Error("a full set takes more")
	}
	s.round = math.MaxUint32
	s.reset()
	if !s.add([]byte("x"), true) || s.add([]byte("x"), true) {
		t.Error("the set after the last round is not a set")
	}
}
