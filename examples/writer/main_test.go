package main

import (
	"bytes"
	"testing"

	"github.com/dramnode/dramnode/examples/internal/fake"
)

func TestWrite(t *testing.T) {
	var s fake.Store
	var out bytes.Buffer
	if err := write(t.Context(), &s, &out, "k", "v"); err != nil {
		t.Fatal(err)
	}
	if v, err := s.Get(t.Context(), []byte("k")); err != nil || string(v.Bytes) != "v, world" || v.Generation != 2 {
		t.Errorf("k is %q, generation %d, %v", v.Bytes, v.Generation, err)
	}
	want := "k = \"v\", generation 1\nk = \"v, world\", generation 2\n" +
		"a write on top of generation 1 is refused: dramnode: generation mismatch: current is 2\n"
	if out.String() != want {
		t.Errorf("output:\n%s\nwant:\n%s", &out, want)
	}
}
