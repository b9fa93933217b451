package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/dramnode/dramnode"
)

func testFlags() *pflag.FlagSet {
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	memory := Bytes(1 << 30)
	flags.Var(&memory, "memory", "")
	flags.String("cluster-name", "default", "")
	flags.StringSlice("join", nil, "")
	flags.Duration("drain-timeout", time.Minute, "")
	flags.Bool("insecure", false, "")
	return flags
}

func environment(pairs ...string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for _, pair := range pairs {
			if value, ok := strings.CutPrefix(pair, name+"="); ok {
				return value, true
			}
		}
		return "", false
	}
}

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "dramnode.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestLayers(t *testing.T) {
	file := write(t, "# a comment\nmemory: 1MiB\ncluster-name: 'from file'\njoin: [a:1, b:2]\n")
	flags := testFlags()
	if err := flags.Parse([]string{"--memory", "3MiB"}); err != nil {
		t.Fatal(err)
	}
	settings, err := Load(flags, environment("DRAMNODE_MEMORY=2MiB", "DRAMNODE_CLUSTER_NAME=from env", "DRAMNODE_INSECURE="), file)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]Setting{
		"memory":        {Value: "3MiB", Source: "flag"},
		"cluster-name":  {Value: "from env", Source: "env DRAMNODE_CLUSTER_NAME"},
		"join":          {Value: "a:1,b:2", Source: file + ":4"},
		"drain-timeout": {Value: "1m0s", Source: "default"},
		"insecure":      {Value: "false", Source: "default"},
	}
	for _, s := range settings {
		w := want[s.Name]
		w.Name = s.Name
		if s != w {
			t.Errorf("got %+v, want %+v", s, w)
		}
	}
	if len(settings) != len(want) {
		t.Errorf("%d settings, want %d", len(settings), len(want))
	}
	if got, _ := flags.GetStringSlice("join"); len(got) != 2 || got[1] != "b:2" {
		t.Errorf("join = %q", got)
	}
}

// A layer that loses must not hide that a higher one is set; one that is not there must do nothing.
func TestLoadEmpty(t *testing.T) {
	for _, file := range []string{"", write(t, ""), write(t, "# nothing\n"), write(t, "---\n")} {
		if _, err := Load(testFlags(), environment(), file); err != nil {
			t.Errorf("%q: %v", file, err)
		}
	}
}

func TestLoadFaults(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"memroy: 1GiB\n", `dramnode.yaml:1: unknown key "memroy"`},
		{"\nmemory: lots\n", `dramnode.yaml:2: key "memory": size "lots"`},
		{"memory:\n", `dramnode.yaml:1: key "memory": has no value`},
		{"memory: 1\nmemory: 2\n", `dramnode.yaml:2: key "memory" is already in line 1`},
		{"memory: [1, 2]\n", `key "memory": is a list, want one value`},
		{"join: {a: b}\n", `key "join": want a value or a list of values`},
		{"insecure: maybe\n", `key "insecure": strconv`},
		{"- memory\n", `dramnode.yaml:1: want lines of the form`},
		{"memory: 1\n---\nmemory: 2\n", "more than one YAML document"},
		{"a: b: c\n", "mapping values are not allowed"},
		{strings.Repeat("#", MaxFileBytes+1), "has more than"},
	} {
		_, err := Load(testFlags(), environment(), write(t, c.text))
		if !errors.Is(err, dramnode.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.40q: error %v, want ErrInvalid with %q", c.text, err, c.want)
		}
	}
	_, err := Load(testFlags(), environment("DRAMNODE_MEMORY=x", "DRAMNODE_DRAIN_TIMEOUT=y"), "")
	if err == nil || !strings.Contains(err.Error(), "DRAMNODE_MEMORY") || !strings.Contains(err.Error(), "DRAMNODE_DRAIN_TIMEOUT") {
		t.Errorf("error %v, want both variables", err)
	}
	if _, err := Load(testFlags(), environment(), "/does/not/exist"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

func TestParseBytes(t *testing.T) {
	for text, want := range map[string]Bytes{
		"0": 0, "4096": 4096, "7b": 7, "512MiB": 512 << 20, "512 mib": 512 << 20, "2GB": 2e9, "1g": 1 << 30, "1K": 1024, "1kb": 1000, "3TiB": 3 << 40,
	} {
		got, err := ParseBytes(text)
		if err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", text, got, err, want)
		}
		if again, err := ParseBytes(got.String()); err != nil || again != got {
			t.Errorf("%q shows as %q, which reads as %d, %v", text, got.String(), again, err)
		}
	}
	for _, text := range []string{"", "GiB", "-1", "1.5GiB", "1 parsec", "9223372036854775808", "8388608TiB", "1GiBx"} {
		if got, err := ParseBytes(text); err == nil {
			t.Errorf("%q: %d, want an error", text, got)
		}
	}
}

func TestHuman(t *testing.T) {
	for b, want := range map[Bytes]string{
		0: "0 B", 999: "999 B", 1000: "1.0 KiB", 64 << 20: "64.0 MiB", 1023 << 20: "1.0 GiB", 500 << 30: "500 GiB", 5000 << 40: "5000 TiB",
	} {
		if got := b.Human(); got != want {
			t.Errorf("%d: %q, want %q", int64(b), got, want)
		}
	}
}

func TestAddresses(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{Beside("127.0.0.1:12345", 1), "127.0.0.1:12346"},
		{Beside("[::1]:12345", 2), "[::1]:12347"},
		{Beside("127.0.0.1:65535", 1), ""},
		{Beside("127.0.0.1:0", 1), ""},
		{WithPort("host", 12346), "host:12346"},
		{WithPort("host:1", 12346), "host:1"},
		{WithPort("::1", 12346), "[::1]:12346"},
		{WithPort("[::1]:7", 12346), "[::1]:7"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
	for _, addr := range []string{"", "127.0.0.1", "localhost:1", "127.0.0.1:70000"} {
		if err := CheckListen("listen", addr); !errors.Is(err, dramnode.ErrInvalid) {
			t.Errorf("CheckListen(%q) = %v", addr, err)
		}
	}
	for _, addr := range []string{"", "host", ":1", "host:0", "host:70000", "host:name", "[::::]:1", "a b:1", "http://host:1"} {
		if err := CheckDial("addr", addr); !errors.Is(err, dramnode.ErrInvalid) {
			t.Errorf("CheckDial(%q) = %v", addr, err)
		}
	}
	if err := errors.Join(CheckListen("listen", "[::1]:0"), CheckDial("addr", "node-1:12345"), CheckDial("addr", "[fe80::1]:1")); err != nil {
		t.Error(err)
	}
	if !Loopback("127.8.0.1:1") || !Loopback("[::ffff:127.0.0.1]:1") || Loopback("0.0.0.0:1") || Loopback("10.0.0.1:1") {
		t.Error("Loopback is wrong")
	}
	if !Unspecified("0.0.0.0:1") || !Unspecified("[::]:1") || Unspecified("127.0.0.1:1") {
		t.Error("Unspecified is wrong")
	}
}

func TestReadKey(t *testing.T) {
	key, err := ReadKey(write(t, "0123456789abcdef\n"))
	if err != nil || string(key) != "0123456789abcdef" {
		t.Errorf("%q, %v", key, err)
	}
	for _, text := range []string{"", "short\n", strings.Repeat("k", MaxKeyBytes+1)} {
		if _, err := ReadKey(write(t, text)); !errors.Is(err, dramnode.ErrInvalid) {
			t.Errorf("key of %d bytes: %v", len(text), err)
		}
	}
	if key, err := ReadKey(""); key != nil || err != nil {
		t.Errorf("no file: %q, %v", key, err)
	}
}

func TestPairs(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"a:1,b:2:3", ""},
		{"a:1,b", "entry 2 is not of the form"},
		{"a:", "entry 1 is not of the form"},
		{"a:1,b:2,a:3", "entry 3 has the name of an earlier one"},
	} {
		var s Secrets
		if err := s.Set(c.text); err != nil {
			t.Fatal(err)
		}
		pairs, err := s.Pairs("keys")
		if c.want == "" {
			if err != nil || len(pairs) != 2 || pairs["b"] != "2:3" {
				t.Errorf("%s: %v, %v", c.text, pairs, err)
			}
		} else if !errors.Is(err, dramnode.ErrInvalid) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), ":3") {
			t.Errorf("%s: %v, want ErrInvalid with %q and no secret", c.text, err, c.want)
		}
	}
}
