package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/dramnode/dramnode"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A fakeStore keeps values in a map; each request takes delay.
type fakeStore struct {
	delay func(request int) time.Duration // nil: none

	mu       sync.Mutex
	values   map[string][]byte
	requests int
	under    int // requests under way
	most     int // of under
	err      error

	starts, refuseEach int // of slots
}

func newFakeStore() *fakeStore { return &fakeStore{values: map[string][]byte{}} }

// begin starts a request and says how long it takes.
func (s *fakeStore) begin() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	s.under++
	s.most = max(s.most, s.under)
	if s.delay == nil {
		return 0
	}
	return s.delay(s.requests - 1)
}

func (s *fakeStore) end(key, put []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.under--
	if s.err != nil {
		return 0, s.err
	}
	if put != nil {
		s.values[string(key)] = bytes.Clone(put)
		return 0, nil
	}
	value, ok := s.values[string(key)]
	if !ok {
		return 0, dramnode.ErrNotFound
	}
	return len(value), nil
}

func (s *fakeStore) do(key, put []byte) (int, error) {
	if d := s.begin(); d > 0 {
		time.Sleep(d)
	}
	return s.end(key, put)
}

func (s *fakeStore) Get(_ context.Context, key, _ []byte) (int, error) { return s.do(key, nil) }

func (s *fakeStore) Put(_ context.Context, key, value []byte) error {
	_, err := s.do(key, value)
	return err
}

// A fakeSlot refuses to start what would begin at a multiple of refuseEach, if that is not 0.
type fakeSlot struct {
	store *fakeStore
	done  func(int, error)
}

func (s *fakeStore) NewSlot(done func(n int, err error)) Slot { return fakeSlot{s, done} }

func (s fakeSlot) start(key, put []byte) error {
	if err := s.store.refuse(); err != nil {
		return err
	}
	go func() { s.done(s.store.do(key, put)) }()
	return nil
}

func (s fakeSlot) Get(_ context.Context, key []byte) error        { return s.start(key, nil) }
func (s fakeSlot) Put(_ context.Context, key, value []byte) error { return s.start(key, value) }

func (s *fakeStore) refuse() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.starts++; s.refuseEach > 0 && s.starts%s.refuseEach == 0 {
		return dramnode.ErrBusy
	}
	return nil
}

func (s *fakeStore) GetAll(_ context.Context, keys [][]byte, lengths []int, errs []error) {
	for i, key := range keys {
		lengths[i], errs[i] = s.do(key, nil)
	}
}

func (s *fakeStore) PutAll(_ context.Context, keys [][]byte, value []byte, errs []error) {
	for i, key := range keys {
		_, errs[i] = s.do(key, value)
	}
}

func (s *fakeStore) Scan(_ context.Context, prefix, key []byte, n int) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !bytes.HasPrefix(key, prefix) || n < 1 || n > MaxScanKeys {
		return 0, fmt.Errorf("scan of %d keys from %q", n, key)
	}
	return n, s.err
}

func (s *fakeStore) Clear(context.Context, []byte) error { return errors.ErrUnsupported }

func testConfig() Config {
	return Config{
		Prefix: "b/", Keys: 10, ValueBytes: 13, Mix: Gets, Chooser: Uniform, Mode: Blocking, Outstanding: 3,
		Warmup: 100 * time.Millisecond, Duration: time.Second,
	}
}

func constant(d time.Duration) func(int) time.Duration { return func(int) time.Duration { return d } }

func TestFill(t *testing.T) {
	for _, keys := range []int{1, 2, 1000} {
		store := newFakeStore()
		store.values["other"] = nil
		c := testConfig()
		c.Keys = keys
		b := New(c, store)
		if err := b.Fill(t.Context()); err != nil || len(store.values) != keys+1 || len(store.values["b/00000"]) != 13 {
			t.Fatalf("%v, %d keys of %d", err, len(store.values), keys+1)
		}
	}
	store := newFakeStore()
	store.err = dramnode.ErrBusy
	if err := New(testConfig(), store).Fill(t.Context()); !errors.Is(err, dramnode.ErrBusy) {
		t.Errorf("fill: %v", err)
	}
}

// TestClosedLoop: with requests of 1 ms, each caller does 1000 a second.
func TestClosedLoop(t *testing.T) {
	for _, mode := range []Mode{Blocking, Async, Batch} {
		for _, mix := range []Mix{Gets, Puts, Half} {
			t.Run(string(mode)+" "+mix.Name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					store := newFakeStore()
					c := testConfig()
					c.Mode, c.Mix = mode, mix
					b := New(c, store)
					if err := b.Fill(t.Context()); err != nil {
						t.Fatal(err)
					}
					store.delay, store.most = constant(time.Millisecond), 0
					r := b.Run(t.Context())
					want, most := int64(3000), 3
					if mode == Batch { // the fake does its requests one after the other
						want, most = 1000, 1
					}
					if r.Ops < want-9 || r.Ops > want+9 || r.Failed() != 0 || r.Bytes != 13*r.Ops || r.Took != time.Second {
						t.Errorf("%d ops, want about %d; %d failed (%v); %d bytes; took %v", r.Ops, want, r.Failed(), r.First, r.Bytes, r.Took)
					}
					if store.most != most {
						t.Errorf("%d requests at once, want %d", store.most, most)
					}
					one := time.Millisecond
					if mode == Batch {
						one *= 3
					}
					if p := r.Latencies.Quantile(99); p < one || p > one*102/100 {
						t.Errorf("p99 %v, want %v", p, one)
					}
					for k, l := range r.ByKind {
						if !mix.has(k) || l.Count() == 0 {
							t.Errorf("%v: %d", k, l.Count())
						}
					}
				})
			})
		}
	}
}

// TestOpenLoopChargesForStalls: one request of 500 ms among others of 1 ms. Those that were due
// meanwhile waited too, although a closed loop would not have sent them.
func TestOpenLoopChargesForStalls(t *testing.T) {
	for _, mode := range []Mode{Blocking, Async, Batch} {
		t.Run(string(mode), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newFakeStore()
				c := testConfig()
				c.Mode, c.Outstanding, c.Warmup, c.Rate = mode, 1, 0, 100
				b := New(c, store)
				if err := b.Fill(t.Context()); err != nil {
					t.Fatal(err)
				}
				filled := store.requests
				store.delay = func(i int) time.Duration {
					if i == filled+10 {
						return 500 * time.Millisecond
					}
					return time.Millisecond
				}
				r := b.Run(t.Context())
				if r.Ops != 100 || r.Failed() != 0 {
					t.Fatalf("%d ops, %d failed: %v", r.Ops, r.Failed(), r.First)
				}
				// 1 of 500 ms, then 491, 482, ... until the queue is worked off; the median is not hit.
				if m := r.Latencies.Max(); m < 495*time.Millisecond || m > 505*time.Millisecond {
					t.Errorf("max %v", m)
				}
				if p := r.Latencies.Quantile(60); p < 40*time.Millisecond {
					t.Errorf("p60 %v: those that waited were not charged", p)
				}
				if p := r.Latencies.Quantile(30); p > 2*time.Millisecond {
					t.Errorf("p30 %v", p)
				}
			})
		})
	}
}

// TestOpenLoopBeyondCapacity: the rate that is reported is what was reached.
func TestOpenLoopBeyondCapacity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		c := testConfig()
		c.Outstanding, c.Rate, c.Warmup = 2, 4000, 0
		b := New(c, store)
		if err := b.Fill(t.Context()); err != nil {
			t.Fatal(err)
		}
		store.delay = constant(time.Millisecond)
		r := b.Run(t.Context())
		if r.Ops != 4000 || r.OpsPerSecond() < 1990 || r.OpsPerSecond() > 2010 {
			t.Errorf("%d ops, %v a second, want 4000 at 2000 a second", r.Ops, r.OpsPerSecond())
		}
	})
}

func TestYCSB(t *testing.T) {
	for _, letter := range strings.Split("abcdf", "") { // for e see TestScan
		mix, choice, err := YCSB(letter)
		if err != nil || !mix.valid() {
			t.Fatalf("%s: %v %v", letter, mix, err)
		}
		synctest.Test(t, func(t *testing.T) {
			store := newFakeStore()
			c := testConfig()
			c.Mix, c.Chooser, c.Keys = mix, choice, 100
			b := New(c, store)
			if err := b.Fill(t.Context()); err != nil {
				t.Fatal(err)
			}
			store.delay = constant(time.Millisecond)
			r := b.Run(t.Context())
			if r.Failed() != 0 {
				t.Errorf("%s: %v", letter, r.First)
			}
			for k, percent := range mix.Percent {
				got := 0.0
				if l := r.ByKind[Kind(k)]; l != nil {
					got = 100 * float64(l.Count()) / float64(r.Ops)
				}
				if got < float64(percent)-4 || got > float64(percent)+4 {
					t.Errorf("%s: %.1f %% %v, want %d", letter, got, Kind(k), percent)
				}
			}
			if n := b.keys.size(); mix.has(Insert) != (n > 100) || n != len(store.values) {
				t.Errorf("%s: %d keys, the store has %d", letter, n, len(store.values))
			}
		})
	}
	if _, _, err := YCSB("g"); !errors.Is(err, dramnode.ErrInvalid) {
		t.Errorf("mix g: %v", err)
	}
}

func TestScan(t *testing.T) {
	c := testConfig()
	c.Mix, c.Chooser, _ = YCSB("e")
	c.Warmup, c.Duration = 0, 10*time.Millisecond
	r := New(c, newFakeStore()).Run(t.Context())
	if r.Failed() != 0 || r.ByKind[Scan].Count() == 0 {
		t.Errorf("%v", r.First)
	}
}

func TestErrorsAreCountedByClass(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("x: %w", dramnode.ErrBusy), "busy"},
		{fmt.Errorf("%w: %w", dramnode.ErrUnavailable, context.DeadlineExceeded), "unavailable"},
		{context.DeadlineExceeded, "timeout"},
		{errors.New("x"), "other"},
	} {
		if got := Class(tc.err); got != tc.want {
			t.Errorf("%v is %q, want %q", tc.err, got, tc.want)
		}
	}
	for _, mode := range []Mode{Blocking, Async, Batch} {
		synctest.Test(t, func(t *testing.T) {
			store := newFakeStore()
			c := testConfig()
			c.Mode = mode
			b := New(c, store)
			store.delay = constant(time.Millisecond)
			if r := b.Run(t.Context()); r.Ops != 0 || r.Errors["not found"] < 900 || !errors.Is(r.First, dramnode.ErrNotFound) {
				t.Errorf("%s: %+v", mode, r)
			}
			store.values = map[string][]byte{}
			for i := range c.Keys {
				store.values[string(appendKey(nil, c.Prefix, i))] = []byte("short")
			}
			if r := b.Run(t.Context()); r.Ops != 0 || r.Errors["wrong length"] < 900 || !errors.Is(r.First, errLength) {
				t.Errorf("%s: %+v", mode, r)
			}
		})
	}
}

func TestCancelEndsARun(t *testing.T) {
	for _, mode := range []Mode{Blocking, Async, Batch} {
		for _, rate := range []float64{0, 10} {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
				defer cancel()
				store := newFakeStore()
				c := testConfig()
				c.Mode, c.Rate, c.Warmup, c.Duration = mode, rate, 0, time.Hour
				b := New(c, store)
				if err := b.Fill(ctx); err != nil {
					t.Fatal(err)
				}
				store.delay = constant(time.Millisecond)
				r := b.Run(ctx)
				if r.Failed() != 0 || r.Ops == 0 || r.Took < 490*time.Millisecond || r.Took > 2*time.Second {
					t.Errorf("%s at %v: %d ops, %d failed in %v", mode, rate, r.Ops, r.Failed(), r.Took)
				}
			})
		}
	}
}

func TestProgressAndServerCPU(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []Progress
		calls := 0
		store := newFakeStore()
		c := testConfig()
		c.Warmup = 500 * time.Millisecond
		c.Progress = func(p Progress) { seen = append(seen, p) }
		c.ServerCPU = func(context.Context) (time.Duration, error) {
			calls++
			return time.Duration(calls) * 300 * time.Millisecond, nil
		}
		b := New(c, store)
		if err := b.Fill(t.Context()); err != nil {
			t.Fatal(err)
		}
		store.delay = constant(time.Millisecond)
		r := b.Run(t.Context())
		if calls != 2 || r.ServerCPU != 300*time.Millisecond || r.ServerCPUPerOp() != r.ServerCPU/time.Duration(r.Ops) {
			t.Errorf("asked %d times; %v", calls, r.ServerCPU)
		}
		if len(seen) < 4 || !seen[0].Warming || seen[len(seen)-1].Warming {
			t.Fatalf("progress %+v", seen)
		}
		for _, p := range seen {
			if p.OpsPerSecond < 2900 || p.OpsPerSecond > 3100 || p.Of != 1500*time.Millisecond {
				t.Errorf("%+v", p)
			}
		}
	})
}

func TestKeysAreInOrder(t *testing.T) {
	var keys []string
	for _, i := range []int{0, 1, 9, 10, 35, 36, 1295, 1296, MaxKeys - 1} {
		key := appendKey(nil, "p", i)
		if len(key) != 1+keyDigits {
			t.Errorf("key %d is %q", i, key)
		}
		keys = append(keys, string(key))
	}
	if !slices.IsSorted(keys) || keys[len(keys)-1] != "pzzzzz" {
		t.Errorf("%q", keys)
	}
}

func TestKeySpaceWaitsForTheOldestInsert(t *testing.T) {
	k := newKeySpace(3)
	a, _ := k.begin()
	b, _ := k.begin()
	if a != 3 || b != 4 || k.size() != 3 {
		t.Fatalf("%d %d %d", a, b, k.size())
	}
	if k.end(b); k.size() != 3 {
		t.Errorf("%d keys although key 3 is missing", k.size())
	}
	if k.end(a); k.size() != 5 || len(k.ended) != 0 {
		t.Errorf("%d keys, %d remembered", k.size(), len(k.ended))
	}
	if _, ok := newKeySpace(MaxKeys).begin(); ok {
		t.Error("a key beyond the last")
	}
}

func TestValidate(t *testing.T) {
	good := testConfig()
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	scans, _, _ := YCSB("e")
	for name, change := range map[string]func(*Config){
		"no keys":      func(c *Config) { c.Keys = 0 },
		"many keys":    func(c *Config) { c.Keys = MaxKeys + 1 },
		"outstanding":  func(c *Config) { c.Outstanding = MaxOutstanding + 1 },
		"no duration":  func(c *Config) { c.Duration = 0 },
		"warm-up":      func(c *Config) { c.Warmup = -1 },
		"size":         func(c *Config) { c.ValueBytes = -1 },
		"rate":         func(c *Config) { c.Rate = -1 },
		"prefix":       func(c *Config) { c.Prefix = "" },
		"mix":          func(c *Config) { c.Mix = Mix{Percent: [kinds]int{Get: 99}} },
		"negative mix": func(c *Config) { c.Mix = Mix{Percent: [kinds]int{Get: 101, Put: -1}} },
		"mode":         func(c *Config) { c.Mode = "x" },
		"chooser":      func(c *Config) { c.Chooser = "x" },
		"batched scan": func(c *Config) { c.Mix, c.Mode = scans, Batch },
	} {
		c := testConfig()
		if change(&c); !errors.Is(c.Validate(), dramnode.ErrInvalid) {
			t.Errorf("%s: %v", name, c.Validate())
		}
	}
}
