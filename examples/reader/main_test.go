package main

import (
	"bytes"
	"testing"

	"github.com/dramnode/dramnode/examples/internal/fake"
	"github.com/dramnode/dramnode/examples/internal/tensor"
)

func TestRead(t *testing.T) {
	var s fake.Store
	if err := read(t.Context(), &s, &bytes.Buffer{}); err == nil {
		t.Error("an empty store was read")
	}
	for key, value := range map[string]string{
		"user:1":      "one",
		"session:a":   "two",
		"other:thing": "not shown",
		tensor.Key:    string(tensor.Matrix{{1, 2}, {3, -0.5}}.Append(nil)),
	} {
		if _, err := s.Put(t.Context(), []byte(key), []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	if err := read(t.Context(), &s, &out); err != nil {
		t.Fatal(err)
	}
	const want = `user:1             one
session:a          two
tensor:weights     2x2 float32
   1.000   2.000
   3.000  -0.500
user:nobody        dramnode: not found
`
	if out.String() != want {
		t.Errorf("output:\n%s\nwant:\n%s", &out, want)
	}
}
