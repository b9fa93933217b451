package object

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
)

// An Upload is an object that comes in parts.
type Upload struct {
	Name
	ID      string
	Started time.Time
	Kind    SumKind // of the checksum that the object gets; without Algorithm nobody asked for one
}

// A Part is one part of an upload.
type Part struct {
	Number   int
	ID       string // unique
	MD5      string // "" unless they are kept
	Sums     []Sum  // the first is what the whole's follows from
	Size     int64
	Modified time.Time
}

// Tag is what a client shows to say which part it means: its MD5, or what is as unique and does not look like one.
func (p Part) Tag() string {
	if p.MD5 != "" {
		return p.MD5
	}
	return p.ID + "-1"
}

// A storedPart is the value of a partKey.
type storedPart struct {
	Run    run    `json:"r"`
	MD5    string `json:"m,omitempty"`
	Sums   []Sum  `json:"k,omitempty"`
	Millis int64  `json:"t"`
}

func (p storedPart) part(number int) Part {
	return Part{Number: number, ID: string(p.Run.ID), MD5: p.MD5, Sums: p.Sums, Size: p.Run.Bytes, Modified: time.UnixMilli(p.Millis)}
}

// Begin starts an upload. What Complete has not made an object of until Config.UploadTimeout is removed.
func (s *Service) Begin(ctx context.Context, n Name, header map[string]string, kind SumKind) (Upload, error) {
	if err := s.checkWrite(ctx, n, Body{}); err != nil {
		return Upload{}, err
	}
	now := time.Now()
	u := Upload{Name: n, ID: string(newID(now)), Started: now, Kind: kind}
	r := record{Millis: now.UnixMilli(), Header: header}
	if kind.Algorithm != "" {
		r.Sum = &Sum{SumKind: kind}
	}
	text, err := json.Marshal(r)
	if err != nil {
		return Upload{}, fmt.Errorf("object: %w", err)
	}
	_, err = s.store.Put(ctx, n.uploadKey(id(u.ID)), text, client.IfAbsent(), client.TTL(s.cfg.UploadTimeout))
	return u, err
}

// upload returns what Begin was told.
func (s *Service) upload(ctx context.Context, n Name, upload string) (record, error) {
	if err := n.Check(); err != nil {
		return record{}, err
	}
	if !id(upload).valid() {
		return record{}, fmt.Errorf("%w: %q", ErrNoUpload, upload)
	}
	v, err := s.store.Get(ctx, n.uploadKey(id(upload)))
	if errors.Is(err, dramnode.ErrNotFound) {
		return record{}, fmt.Errorf("%w: %q", ErrNoUpload, upload)
	}
	if err != nil {
		return record{}, err
	}
	var r record
	if err := json.Unmarshal(v.Bytes, &r); err != nil {
		return record{}, fmt.Errorf("object: %w: upload %s: %w", dramnode.ErrCorrupt, upload, err)
	}
	return r, nil
}

// kind is what checksum an upload is to get.
func (r *record) kind() SumKind {
	if r.Sum == nil || !r.Sum.Valid(true) {
		return SumKind{}
	}
	return r.Sum.SumKind
}

// PutPart stores a part; one of the same number before it is replaced. What the part is may depend on the checksum that
// the upload is to get. Its first sum should be of that algorithm, or of DefaultSum when there is none.
func (s *Service) PutPart(ctx context.Context, n Name, upload string, number int, content func(SumKind) (Body, error)) (Part, error) {
	if number < 1 || number > MaxParts {
		return Part{}, fmt.Errorf("%w: part %d, want 1 to %d", dramnode.ErrInvalid, number, MaxParts)
	}
	u, err := s.upload(ctx, n, upload)
	if err != nil {
		return Part{}, err
	}
	body, err := content(u.kind())
	if err != nil {
		return Part{}, err
	}
	if body.Size < 0 || body.Size > MaxBytes {
		return Part{}, fmt.Errorf("object: %w: a part of %d bytes, the limit is %d", dramnode.ErrTooLarge, body.Size, int64(MaxBytes))
	}
	chunks, sum, err := s.putChunks(ctx, n, body)
	if err != nil {
		return Part{}, err
	}
	stored := storedPart{Run: chunks, MD5: sum, Sums: body.sums(), Millis: time.Now().UnixMilli()}
	text, err := json.Marshal(stored)
	if err != nil {
		return Part{}, fmt.Errorf("object: %w", err)
	}
	key := partKey(id(upload), number)
	old, oldErr := s.store.Get(ctx, key)
	if _, err := s.store.Put(ctx, key, text, client.TTL(s.cfg.UploadTimeout)); err != nil {
		s.staged.remove(body.Size)
		return Part{}, err // the sweep removes the chunks: the record may be there
	}
	if before := new(storedPart); oldErr == nil && json.Unmarshal(old.Bytes, before) == nil {
		s.staged.remove(before.Run.Bytes)
		s.retire(retired{n, before.Run.ID, s.cfg.Grace}) // a Complete may have seen it just before
	}
	return stored.part(number), nil
}

// Parts lists the parts of an upload by number.
func (s *Service) Parts(ctx context.Context, n Name, upload string) (parts []Part, kind SumKind, err error) {
	u, err := s.upload(ctx, n, upload)
	if err != nil {
		return nil, kind, err
	}
	stored, err := s.parts(ctx, id(upload))
	if err != nil {
		return nil, kind, err
	}
	for number := 1; number <= MaxParts && len(parts) < len(stored); number++ {
		if p, ok := stored[number]; ok {
			parts = append(parts, p.part(number))
		}
	}
	return parts, u.kind(), nil
}

func (s *Service) parts(ctx context.Context, upload id) (map[int]storedPart, error) {
	var keys [][]byte
	for e, err := range s.store.List(ctx, client.Query{Prefix: []byte(partKeys + string(upload) + "/"), Limit: MaxParts}) {
		if err != nil {
			return nil, err
		}
		keys = append(keys, e.Key)
	}
	parts := make(map[int]storedPart, len(keys))
	for i, r := range s.store.MultiGet(ctx, keys) {
		if errors.Is(r.Err, dramnode.ErrNotFound) {
			continue // aborted meanwhile
		}
		if r.Err != nil {
			return nil, r.Err
		}
		var number int
		var p storedPart
		if _, err := fmt.Sscanf(string(keys[i][len(partKeys)+idBytes+1:]), "%d", &number); err != nil || json.Unmarshal(r.Bytes, &p) != nil || !p.Run.ID.valid() {
			return nil, fmt.Errorf("object: %w: part %q", dramnode.ErrCorrupt, keys[i])
		}
		parts[number] = p
	}
	return parts, nil
}

// A Chosen part is one that Complete takes; Tag is what Part.Tag said.
type Chosen struct {
	Number int
	Tag    string
}

// An Assembly is what Complete is about to make an object of.
type Assembly struct {
	Size  int64
	Parts []Part
	Kind  SumKind // that Begin was told
	Sum   Sum     // of the object
}

// Complete makes an object of these parts by one conditional write, unless vet objects. It may be asked again.
func (s *Service) Complete(ctx context.Context, n Name, upload string, chosen []Chosen, vet func(Assembly) error, when ...client.Option) (Info, error) {
	r, err := s.upload(ctx, n, upload)
	if errors.Is(err, ErrNoUpload) {
		return s.completed(ctx, n, id(upload), err)
	}
	if err != nil {
		return Info{}, err
	}
	stored, err := s.parts(ctx, id(upload))
	if err != nil {
		return Info{}, err
	}
	m, parts, err := s.assemble(r, stored, chosen)
	if err != nil {
		return Info{}, err
	}
	a := Assembly{Size: m.Size, Parts: parts, Kind: r.kind()}
	if m.Sum != nil {
		a.Sum = *m.Sum
	}
	if err := vet(a); err != nil {
		return Info{}, err
	}
	m.Upload = id(upload)
	later := s.recordOf(ctx, n)
	defer later()
	info, err := s.putManifest(ctx, n, m, later, when)
	if err != nil {
		return Info{}, err
	}
	s.forget(context.WithoutCancel(ctx), n, id(upload), stored, m.Runs)
	return info, nil
}

// completed returns the object if it is what this upload made: then a client asks again that has not seen the answer.
func (s *Service) completed(ctx context.Context, n Name, upload id, otherwise error) (Info, error) {
	r, err := s.Open(ctx, n, Range{0, 0})
	if err != nil {
		return Info{}, otherwise
	}
	defer r.Close()
	if r.manifest == nil || r.manifest.Upload != upload || !upload.valid() {
		return Info{}, otherwise
	}
	return r.Info, nil
}

// assemble checks the choice and makes the manifest.
func (s *Service) assemble(r record, stored map[int]storedPart, chosen []Chosen) (m manifest, parts []Part, err error) {
	m = manifest{record: record{Millis: time.Now().UnixMilli(), Header: r.Header, Chunked: true}}
	for i := 1; i < len(chosen); i++ {
		if chosen[i].Number <= chosen[i-1].Number {
			return m, nil, fmt.Errorf("%w: %d after %d", ErrPartOrder, chosen[i].Number, chosen[i-1].Number)
		}
	}
	sums := md5.New()
	var taken []storedPart
	for i, c := range chosen {
		p, ok := stored[c.Number]
		switch {
		case !ok || p.part(c.Number).Tag() != strings.Trim(c.Tag, `"`):
			return m, nil, fmt.Errorf("%w: %d with tag %q", ErrPart, c.Number, c.Tag)
		case i < len(chosen)-1 && p.Run.Bytes < s.cfg.MinPartBytes:
			return m, nil, fmt.Errorf("%w: part %d has %d bytes, want at least %d", ErrPartTooSmall, c.Number, p.Run.Bytes, s.cfg.MinPartBytes)
		}
		m.Size += p.Run.Bytes
		m.Parts, m.Runs = append(m.Parts, p.Run.Bytes), append(m.Runs, p.Run)
		taken, parts = append(taken, p), append(parts, p.part(c.Number))
		sum, err := hex.DecodeString(p.MD5)
		if err != nil {
			return m, nil, fmt.Errorf("object: %w: MD5 of part %d", dramnode.ErrCorrupt, c.Number)
		}
		sums.Write(sum)
	}
	if len(chosen) == 0 || m.Size > MaxBytes {
		return m, nil, fmt.Errorf("object: %w: %d parts of %d bytes, want 1 to %d parts of at most %d", dramnode.ErrTooLarge, len(chosen), m.Size, MaxParts, int64(MaxBytes))
	}
	if s.cfg.MD5 {
		m.MD5 = text(sums)
	}
	kind := r.kind()
	if kind.Algorithm == "" {
		kind.Algorithm = DefaultSum
	}
	sum, ok := combine(kind, taken)
	if !ok {
		return m, parts, nil
	}
	m.Sum = &sum
	for _, p := range taken {
		if r.Sum != nil {
			m.PartSums = append(m.PartSums, p.Sums[0].Text)
		}
	}
	return m, parts, nil
}

// Abort removes an upload and its parts.
func (s *Service) Abort(ctx context.Context, n Name, upload string) error {
	if _, err := s.upload(ctx, n, upload); err != nil {
		return err
	}
	stored, err := s.parts(ctx, id(upload))
	if err != nil {
		return err
	}
	s.forget(ctx, n, id(upload), stored, nil)
	return nil
}

// forget removes an upload and the chunks of its parts, but for those that are used. What stays after an error
// has a time to live, or is the sweep's.
func (s *Service) forget(ctx context.Context, n Name, upload id, stored map[int]storedPart, used []run) {
	keep := make(map[id]bool, len(used))
	for _, r := range used {
		keep[r.ID] = true
	}
	for _, p := range stored {
		s.staged.remove(p.Run.Bytes)
		if !keep[p.Run.ID] {
			s.retire(retired{n, p.Run.ID, s.cfg.Grace})
		}
	}
	_, err := s.store.Remove(ctx, n.uploadKey(upload))
	if err == nil {
		_, err = s.store.DeleteRange(ctx, client.Query{Prefix: []byte(partKeys + string(upload) + "/")})
	}
	if err != nil {
		s.cfg.Log.Debug().Err(err).Msg("upload left behind")
	}
}

// Uploads lists at most limit uploads in a bucket whose keys begin with prefix and come after key and id.
func (s *Service) Uploads(ctx context.Context, bucket, prefix, afterKey, afterID string, limit int) (uploads []Upload, more bool, err error) {
	if err := CheckBucket(bucket); err != nil {
		return nil, false, err
	}
	q := client.Query{Prefix: []byte(uploadKeys + bucket + "/" + prefix), Limit: limit + 1}
	if afterKey != "" {
		if afterID == "" {
			afterID = "\xff"
		}
		q.After = []byte(uploadKeys + bucket + "/" + afterKey + "\x00" + afterID)
	}
	for e, err := range s.store.List(ctx, q) {
		if err != nil {
			return nil, false, err
		}
		n, i, rest, ok := cut(string(e.Key), uploadKeys)
		if !ok || rest != "" {
			continue
		}
		if len(uploads) == limit {
			return uploads, true, s.kinds(ctx, uploads)
		}
		uploads = append(uploads, Upload{Name: n, ID: string(i), Started: i.made()})
	}
	if len(uploads) == 0 {
		return nil, false, s.checkBucketNow(ctx, bucket)
	}
	return uploads, false, s.kinds(ctx, uploads)
}

// kinds fills in what checksums uploads are to get. One that has ended meanwhile gets none.
func (s *Service) kinds(ctx context.Context, uploads []Upload) error {
	keys := make([][]byte, len(uploads))
	for i, u := range uploads {
		keys[i] = u.uploadKey(id(u.ID))
	}
	for i, got := range s.store.MultiGet(ctx, keys) {
		r := storedRecord(got.Value, got.Err)
		if r.err != nil {
			return r.err
		}
		if r.record != nil {
			uploads[i].Kind = r.kind()
		}
	}
	return nil
}
