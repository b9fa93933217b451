package main

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
)

func TestShow(t *testing.T) {
	for key, want := range map[string]string{
		"plain/key é":   "plain/key é",
		"":              `""`,
		"two\nlines":    `"two\nlines"`,
		"\x1b[31mred":   `"\x1b[31mred"`,
		"\xff":          `"\xff"`,
		`"in quotes"`:   `"\"in quotes\""`,
		`with " quote`:  `with " quote`,
		"\u202ereverse": `"\u202ereverse"`,
	} {
		if got := (&app{}).show([]byte(key)); got != want {
			t.Errorf("%q shows as %s, want %s", key, got, want)
		}
	}
	if got := (&app{hex: true}).show([]byte("a\xff")); got != "61ff" {
		t.Errorf("--hex shows %s", got)
	}
}

func TestKey(t *testing.T) {
	if key, err := (&app{hex: true}).key("61fF"); string(key) != "a\xff" || err != nil {
		t.Errorf("%q, %v", key, err)
	}
	for _, arg := range []string{"", "6", "zz"} {
		if key, err := (&app{hex: true}).key(arg); !errors.Is(err, dramnode.ErrInvalid) {
			t.Errorf("key of %q = %q, %v", arg, key, err)
		}
	}
	if _, err := (&app{}).key(string(make([]byte, dramnode.MaxKeyBytes+1))); !errors.Is(err, dramnode.ErrInvalid) {
		t.Errorf("long key: %v", err)
	}
}

func TestJSONKey(t *testing.T) {
	for key, want := range map[string]string{"a é": `"a é"`, "\xff": `{"hex":"ff"}`, "": `""`} {
		if got, err := json.Marshal(jsonKey(key)); string(got) != want || err != nil {
			t.Errorf("%q: %s, %v, want %s", key, got, err, want)
		}
	}
}

func TestParseRange(t *testing.T) {
	for text, want := range map[string]client.Option{
		"0:10": client.Range(0, 10), "5:": client.Range(5, -1), "7:7": client.Range(7, 7), "-3": client.Suffix(3),
	} {
		if got, err := parseRange(text); got != want || err != nil {
			t.Errorf("%q: %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "5", ":5", "5:4", "-", "--3", "-3:4", "a:b", "1:2:3", "+1:2", "9223372036854775808:"} {
		if got, err := parseRange(text); !errors.Is(err, dramnode.ErrInvalid) {
			t.Errorf("%q: %v, %v, want ErrInvalid", text, got, err)
		}
	}
}
