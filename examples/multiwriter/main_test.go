package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/examples/internal/fake"
	"github.com/dramnode/dramnode/examples/internal/tensor"
)

func TestWrite(t *testing.T) {
	var s fake.Store
	var out bytes.Buffer
	if err := write(t.Context(), &s, &out); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "\n"); n != 13 {
		t.Errorf("%d lines, want 13:\n%s", n, &out)
	}
	v, err := s.Get(t.Context(), []byte(tensor.Key))
	if err != nil {
		t.Fatal(err)
	}
	if m, err := tensor.Parse(v.Bytes); err != nil || len(m) != 4 || len(m[0]) != 4 || m[1][3] != 0.25 {
		t.Errorf("tensor %v, %v", m, err)
	}
}

func TestWriteNamesWhatFailed(t *testing.T) {
	s := fake.Store{PutErr: func(key string) (error, bool) {
		if key == "metrics:cpu" {
			return dramnode.ErrNoMemory, false
		}
		return nil, true
	}}
	var out bytes.Buffer
	err := write(t.Context(), &s, &out)
	if !errors.Is(err, dramnode.ErrNoMemory) || !strings.Contains(err.Error(), "metrics:cpu") {
		t.Errorf("error: %v", err)
	}
	if n := strings.Count(out.String(), "\n"); n != 12 {
		t.Errorf("%d lines, want 12", n)
	}
}
