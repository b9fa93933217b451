package conformance

import (
	"context"
	"errors"
	"strconv"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
)

// Client adapts a client.
type Client struct{ *client.Client }

var _ Adapter = Client{}

func generationOf(g dramnode.Generation) Generation {
	if g == dramnode.Absent {
		return NoValue
	}
	return Generation(strconv.FormatUint(uint64(g), 10))
}

func condition(g Generation) dramnode.Generation {
	if g == NoValue {
		return dramnode.Absent
	}
	n, _ := strconv.ParseUint(string(g), 10, 64) // generations are what generationOf made
	return dramnode.Generation(n)
}

func when(g Generation) []client.Option {
	if g == Unknown {
		return nil
	}
	return []client.Option{client.IfGeneration(condition(g))}
}

// Read implements Adapter.
func (c Client) Read(ctx context.Context, r Read) (Result, error) {
	opts := when(r.IfEqual)
	if r.IfNotEqual != Unknown {
		opts = append(opts, client.IfNotGeneration(condition(r.IfNotEqual)))
	}
	switch {
	case r.Last > 0:
		opts = append(opts, client.Suffix(r.Last))
	case !r.Whole:
		opts = append(opts, client.Range(r.Start, r.End))
	}
	v, err := c.Get(ctx, []byte(r.Key), opts...)
	mismatch := new(dramnode.GenerationError)
	switch {
	case errors.Is(err, dramnode.ErrNotFound):
		return Result{State: Missing, Generation: NoValue}, nil
	case errors.As(err, &mismatch):
		return Result{State: Aborted, Generation: generationOf(mismatch.Current)}, nil
	}
	return Result{State: Value, Generation: generationOf(v.Generation), Bytes: v.Bytes}, err
}

// Write implements Adapter.
func (c Client) Write(ctx context.Context, key string, value []byte, condition Generation) (Generation, error) {
	return outcome(c.Put(ctx, []byte(key), value, when(condition)...))
}

// Delete implements Adapter.
func (c Client) Delete(ctx context.Context, key string, condition Generation) (Generation, error) {
	return outcome(c.Remove(ctx, []byte(key), when(condition)...))
}

func outcome(g dramnode.Generation, err error) (Generation, error) {
	if errors.Is(err, dramnode.ErrGenerationMismatch) {
		return Unknown, nil
	}
	return generationOf(g), err
}

// DeleteRange implements Adapter.
func (c Client) DeleteRange(ctx context.Context, min, max string) error {
	_, err := c.Client.DeleteRange(ctx, client.Query{Start: []byte(min), End: []byte(max)})
	return err
}

// List implements Adapter.
func (c Client) List(ctx context.Context, min, max string, yield func(Entry) bool) error {
	for e, err := range c.Client.List(ctx, client.Query{Start: []byte(min), End: []byte(max)}) {
		if err != nil {
			return err
		}
		if !yield(Entry{string(e.Key), e.Size}) {
			return nil
		}
	}
	return nil
}

// Foreign implements Adapter.
func (c Client) Foreign() Generation { return generationOf(1415926535897932) }

// Lacks implements Adapter.
func (c Client) Lacks(f Feature) string {
	if f == ServerTime {
		return "a read is current as of its request, and does not tell the time"
	}
	return ""
}
