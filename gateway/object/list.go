package object

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
)

// A Bucket is the first component of keys. One exists while somebody made it, or objects are in it.
type Bucket struct {
	Name    string
	Created time.Time // zero: nobody made it, objects are in it
}

// bucketMemory is how long a bucket that was seen counts as there for writes.
const bucketMemory = 10 * time.Second

const maxCached = 1024

// A cache remembers buckets that were seen.
type cache struct {
	mu   sync.Mutex
	seen map[string]time.Time
}

func (c *cache) fresh(bucket string, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, ok := c.seen[bucket]
	return ok && now.Sub(at) < bucketMemory
}

func (c *cache) add(bucket string, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen == nil || len(c.seen) >= maxCached {
		c.seen = map[string]time.Time{}
	}
	c.seen[bucket] = now
}

func (c *cache) drop(bucket string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.seen, bucket)
}

// needBucket is CheckBucket and ErrNoBucket for writes: what was seen a moment ago is still there.
func (s *Service) needBucket(ctx context.Context, bucket string) error {
	if s.buckets.fresh(bucket, time.Now()) {
		return nil
	}
	return s.checkBucketNow(ctx, bucket)
}

// NeedBucket fails with ErrNoBucket when there is no such bucket.
func (s *Service) NeedBucket(ctx context.Context, bucket string) error {
	return s.checkBucketNow(ctx, bucket)
}

func (s *Service) checkBucketNow(ctx context.Context, bucket string) error {
	if err := CheckBucket(bucket); err != nil {
		return err
	}
	_, err := s.store.Get(ctx, []byte(bucketKeys+bucket))
	if errors.Is(err, dramnode.ErrNotFound) {
		var used bool
		if used, err = s.used(ctx, bucket); err == nil && !used {
			s.buckets.drop(bucket)
			return fmt.Errorf("%w: %q", ErrNoBucket, bucket)
		}
	}
	if err == nil {
		s.buckets.add(bucket, time.Now())
	}
	return err
}

// used tells whether there are objects in a bucket.
func (s *Service) used(ctx context.Context, bucket string) (bool, error) {
	for _, err := range s.store.List(ctx, client.Query{Prefix: []byte(bucket + "/"), Limit: 1}) {
		return err == nil, err
	}
	return false, nil
}

// MakeBucket makes a bucket.
func (s *Service) MakeBucket(ctx context.Context, bucket string) error {
	if err := CheckBucket(bucket); err != nil {
		return err
	}
	_, err := s.store.Put(ctx, []byte(bucketKeys+bucket), time.Now().AppendFormat(nil, time.RFC3339), client.IfAbsent())
	if errors.Is(err, dramnode.ErrGenerationMismatch) {
		return fmt.Errorf("%w: %q", ErrBucketExists, bucket)
	}
	if err == nil {
		s.buckets.add(bucket, time.Now())
	}
	return err
}

// RemoveBucket removes an empty bucket. An object that is written meanwhile keeps it.
func (s *Service) RemoveBucket(ctx context.Context, bucket string) error {
	if err := s.checkBucketNow(ctx, bucket); err != nil {
		return err
	}
	used, err := s.used(ctx, bucket)
	if err != nil {
		return err
	}
	if used {
		return fmt.Errorf("%w: %q", ErrBucketNotEmpty, bucket)
	}
	s.buckets.drop(bucket)
	_, err = s.store.Remove(ctx, []byte(bucketKeys+bucket))
	return err
}

// MaxBuckets is how many buckets Buckets lists.
const MaxBuckets = 10000

// Buckets lists the buckets by name, those that somebody made and those that hold objects.
func (s *Service) Buckets(ctx context.Context) ([]Bucket, error) {
	var made [][]byte
	for e, err := range s.store.List(ctx, client.Query{Prefix: []byte(bucketKeys), Limit: MaxBuckets}) {
		if err != nil {
			return nil, err
		}
		made = append(made, e.Key)
	}
	var buckets []Bucket
	for i, r := range s.store.MultiGet(ctx, made) {
		if errors.Is(r.Err, dramnode.ErrNotFound) {
			continue
		}
		if r.Err != nil {
			return nil, r.Err
		}
		created, err := time.Parse(time.RFC3339, string(r.Bytes))
		if err != nil {
			created = time.Unix(0, 0)
		}
		buckets = append(buckets, Bucket{strings.TrimPrefix(string(made[i]), bucketKeys), created})
	}
	used, err := s.usedBuckets(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range used {
		if !slices.ContainsFunc(buckets, func(b Bucket) bool { return b.Name == name }) {
			buckets = append(buckets, Bucket{Name: name})
		}
	}
	slices.SortFunc(buckets, func(a, b Bucket) int { return strings.Compare(a.Name, b.Name) })
	return buckets, nil
}

// maxScanned is how many keys that are in no bucket usedBuckets looks at.
const maxScanned = 100_000

// usedBuckets lists the first components of keys: it reads on while keys have different ones, and jumps over
// the rest of one that has many.
func (s *Service) usedBuckets(ctx context.Context) ([]string, error) {
	var used []string
	scanned, inBucket := 0, 0
	q := client.Query{Start: []byte("-")} // the least that a bucket's name may begin with
	for jump := true; jump && len(used) < MaxBuckets; {
		jump = false
		for e, err := range s.store.List(ctx, q) {
			if err != nil {
				return nil, err
			}
			name, _, ok := strings.Cut(string(e.Key), "/")
			switch {
			case !ok || CheckBucket(name) != nil:
				if scanned++; scanned > maxScanned {
					s.cfg.Log.Warn().Int("keys", scanned).Msg("too many keys are in no bucket: the list of buckets is not complete")
					return used, nil
				}
				continue
			case len(used) == 0 || used[len(used)-1] != name:
				used, inBucket = append(used, name), 0
			default:
				inBucket++
			}
			if inBucket == foldedRun {
				q.Start, jump = append([]byte(name), '/'+1), true
				break
			}
		}
	}
	return used, nil
}

// A Query says which objects of a bucket List returns.
type Query struct {
	Bucket    string
	Prefix    string
	Delimiter string // what comes after its first occurrence behind Prefix is folded; "" folds nothing
	After     string // only what comes after this key or folded prefix
	Start     string // only keys from this one on
	End       string // only keys before this one; "": no limit
	Limit     int    // most entries and prefixes together
}

// An Entry is an object, or a folded prefix.
type Entry struct {
	Key    string
	Prefix bool
	Info   // of an object
}

// A Page is what List returns.
type Page struct {
	Entries []Entry
	More    bool // the next page comes After the last entry's Key
	Skipped int  // keys that no object can have, because another face wrote them
}

// foldedRun is how many keys behind one folded prefix are read before the list jumps over the rest.
const foldedRun = 200

// List returns one page, by key.
func (s *Service) List(ctx context.Context, q Query) (Page, error) {
	var p Page
	if err := CheckBucket(q.Bucket); err != nil {
		return p, err
	}
	if q.Limit > 0 && len(q.Prefix) <= MaxKeyBytes {
		l := lister{Service: s, q: q, page: &p, root: q.Bucket + "/"}
		l.next = client.Query{Prefix: []byte(l.root + q.Prefix)}
		l.bound()
		for l.jump = true; l.jump; {
			if err := l.run(ctx); err != nil {
				return p, err
			}
		}
		if err := s.describe(ctx, q.Bucket, p.Entries); err != nil {
			return p, err
		}
	}
	if len(p.Entries) == 0 {
		return p, s.checkBucketNow(ctx, q.Bucket)
	}
	return p, nil
}

// A lister makes one page.
type lister struct {
	*Service
	q    Query
	page *Page
	root string       // BUCKET/
	next client.Query // what is left
	jump bool         // next was moved ahead
}

// bound makes next begin and end where q says.
func (l *lister) bound() {
	if l.q.Start != "" {
		l.next.Start = []byte(l.root + l.q.Start)
	}
	if l.q.End != "" {
		l.next.End = []byte(l.root + l.q.End)
	}
	if l.q.After == "" {
		return
	}
	if folded, ok := l.fold(l.q.After); ok && folded == l.q.After {
		l.over(folded)
		return
	}
	l.next.After = []byte(l.root + l.q.After)
}

// fold returns the prefix that stands for key, if one does.
func (l *lister) fold(key string) (string, bool) {
	if l.q.Delimiter == "" || !strings.HasPrefix(key, l.q.Prefix) {
		return "", false
	}
	at := strings.Index(key[len(l.q.Prefix):], l.q.Delimiter)
	if at < 0 {
		return "", false
	}
	return key[:len(l.q.Prefix)+at+len(l.q.Delimiter)], true
}

// over moves next behind all keys that begin with a folded prefix.
func (l *lister) over(folded string) {
	last := []byte(l.root + folded) // ends in a delimiter, which is no 0xFF: it is UTF-8
	last[len(last)-1]++
	if string(last) > string(l.next.Start) {
		l.next.Start = last
	}
}

// run reads until the page is full, the keys are over, or it is better to jump.
func (l *lister) run(ctx context.Context) error {
	l.jump = false
	inFold := 0
	if l.q.Delimiter == "" {
		l.next.Limit = l.q.Limit - len(l.page.Entries) + 1
	}
	for e, err := range l.store.List(ctx, l.next) {
		if err != nil {
			return err
		}
		key := string(e.Key[len(l.root):])
		if key == "" || len(key) > MaxKeyBytes || !expressible(key) {
			l.page.Skipped++
			if l.q.Delimiter == "" { // the limit counts it
				l.next.After, l.jump = e.Key, true
			}
			continue
		}
		entry := Entry{Key: key, Info: Info{Generation: e.Generation, Size: e.Size}}
		if folded, ok := l.fold(key); ok {
			if n := len(l.page.Entries); n > 0 && l.page.Entries[n-1].Key == folded {
				if inFold++; inFold == foldedRun {
					l.over(folded)
					l.jump = true
					return nil
				}
				continue
			}
			inFold = 0
			entry = Entry{Key: folded, Prefix: true}
		}
		if len(l.page.Entries) == l.q.Limit {
			l.page.More, l.jump = true, false
			return nil
		}
		l.page.Entries = append(l.page.Entries, entry)
		if l.jump {
			l.next.After = e.Key
		}
	}
	return nil
}

// describe fills in what the records know, and the manifests where they are needed.
func (s *Service) describe(ctx context.Context, bucket string, entries []Entry) error {
	var keys [][]byte
	var of []int
	for i, e := range entries {
		if !e.Prefix {
			keys, of = append(keys, Name{bucket, e.Key}.recordKey()), append(of, i)
		}
	}
	for k, got := range s.store.MultiGet(ctx, keys) {
		e := &entries[of[k]]
		r := storedRecord(got.Value, got.Err)
		if r.err != nil {
			return r.err
		}
		known := r.record != nil && r.Generation == e.Generation
		if !known && MayBeManifest(e.Size) && e.Size <= maxManifestBytes {
			m, err := s.manifestOf(ctx, Name{bucket, e.Key}, e.Generation)
			if err != nil && !errors.Is(err, ErrReplaced) {
				return err
			}
			if m != nil {
				m.record.Generation = e.Generation
				r.record = &m.record
			}
		}
		e.Info = r.record.info(e.Generation, e.Size)
	}
	return nil
}
