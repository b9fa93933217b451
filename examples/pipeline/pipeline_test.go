package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/examples/internal/fake"
)

func TestPipeline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s fake.Store
		puts := 0
		s.PutErr = func(string) (error, bool) { // every third put is not answered; of those every other is applied
			puts++
			if puts%3 == 0 {
				return dramnode.ErrUnknownOutcome, puts%2 == 0
			}
			return nil, true
		}
		var out bytes.Buffer
		p := pipeline{prefix: "p/", items: 40}
		if err := p.run(t.Context(), [3]store{&s, &s, &s}, &out); err != nil {
			t.Fatal(err)
		}
		if got, want := out.String(), "40 items, sum of squares 22140\n"; got != want {
			t.Errorf("output %q, want %q", got, want)
		}
		for e := range s.List(t.Context(), client.Query{}) {
			t.Errorf("%s was left behind", e.Key)
		}
	})
}

func TestPipelineEndsWhenAStageFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s fake.Store
		s.PutErr = func(key string) (error, bool) {
			if strings.HasSuffix(key, "done/3") {
				return dramnode.ErrNoMemory, false
			}
			return nil, true
		}
		p := pipeline{prefix: "p/", items: 40}
		err := p.run(t.Context(), [3]store{&s, &s, &s}, &bytes.Buffer{})
		if !errors.Is(err, dramnode.ErrNoMemory) || !strings.Contains(err.Error(), "process") {
			t.Errorf("error: %v", err)
		}
	})
}

func TestPipelineEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s fake.Store
		s.PutErr = func(string) (error, bool) { return dramnode.ErrUnknownOutcome, false }
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		p := pipeline{prefix: "p/", items: 1}
		if err := p.run(ctx, [3]store{&s, &s, &s}, &bytes.Buffer{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error: %v", err)
		}
	})
}
