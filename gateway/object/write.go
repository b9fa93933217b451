package object

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
)

// A Body is the content of an object on its way in. Reader must return io.EOF after exactly Size bytes; any
// other error of it, also one in the place of that io.EOF, ends the write and is its error.
type Body struct {
	Reader io.Reader
	Size   int64
	Sums   func() []Sum // of the whole content once Reader has ended, the first one to be kept; nil: none
}

// sums are those of a body that was read; nil when there are none.
func (b Body) sums() []Sum {
	if b.Sums == nil {
		return nil
	}
	return b.Sums()
}

// sum is the one to be kept.
func (b Body) sum() *Sum {
	if sums := b.sums(); len(sums) > 0 {
		return &sums[0]
	}
	return nil
}

// Put writes an object with one conditional write at its owner. The only condition is client.IfGeneration.
// The bucket must exist.
func (s *Service) Put(ctx context.Context, n Name, body Body, header map[string]string, when ...client.Option) (Info, error) {
	if err := s.checkWrite(ctx, n, body); err != nil {
		return Info{}, err
	}
	later := s.recordOf(ctx, n)
	defer later()
	r := record{Millis: time.Now().UnixMilli(), Size: body.Size, Header: header}
	if body.Size <= s.cfg.MaxValueBytes {
		b, sum, err := s.receive(ctx, body)
		if err != nil {
			return Info{}, err
		}
		r.MD5, r.Sum = sum, body.sum()
		return s.commit(ctx, n, r, later, func() (dramnode.Generation, error) { return s.store.PutBuffer(ctx, n.valueKey(), b, when...) }, b.Release)
	}
	chunks, sum, err := s.putChunks(ctx, n, body)
	if err != nil {
		return Info{}, err
	}
	r.MD5, r.Sum, r.Chunked = sum, body.sum(), true
	info, err := s.putManifest(ctx, n, manifest{record: r, Runs: []run{chunks}}, later, when)
	s.staged.remove(body.Size)
	if err != nil && !errors.Is(err, dramnode.ErrUnknownOutcome) {
		s.retire(retired{n, chunks.ID, 0})
	}
	return info, err
}

func (s *Service) checkWrite(ctx context.Context, n Name, body Body) error {
	if err := n.Check(); err != nil {
		return err
	}
	if body.Size < 0 || body.Size > MaxBytes {
		return fmt.Errorf("object: %w: %d bytes, the limit is %d", dramnode.ErrTooLarge, body.Size, int64(MaxBytes))
	}
	return s.needBucket(ctx, n.Bucket)
}

// commit writes a value by put, then its record, and lets go of the chunks of what was there before.
func (s *Service) commit(ctx context.Context, n Name, r record, later func() stored, put func() (dramnode.Generation, error), drop func()) (Info, error) {
	old := later()
	if old.err != nil {
		drop()
		return Info{}, old.err
	}
	runs, err := s.runsOf(ctx, n, old)
	if err != nil {
		drop()
		return Info{}, err
	}
	g, err := put()
	if err != nil {
		return Info{}, err
	}
	for _, run := range runs {
		s.retire(retired{n, run.ID, s.cfg.Grace})
	}
	r.Generation = g
	if err := s.keep(context.WithoutCancel(ctx), n, r, old); err != nil {
		return Info{}, fmt.Errorf("%w: %q is written, its metadata is not: %w", dramnode.ErrUnknownOutcome, n.path(), err)
	}
	return r.info(g, r.Size), nil
}

// runsOf returns the chunks of what a write is about to replace, by its record.
func (s *Service) runsOf(ctx context.Context, n Name, old stored) ([]run, error) {
	if old.record == nil || !old.Chunked {
		return nil, nil
	}
	m, err := s.manifestOf(ctx, n, old.Generation)
	if errors.Is(err, ErrReplaced) || m == nil && err == nil {
		return nil, nil // it is replaced already
	}
	if err != nil {
		return nil, err
	}
	return m.Runs, nil
}

func (s *Service) putManifest(ctx context.Context, n Name, m manifest, later func() stored, when []client.Option) (Info, error) {
	value, err := m.encode()
	if err != nil {
		return Info{}, err
	}
	put := func() (dramnode.Generation, error) { return s.store.Put(ctx, n.valueKey(), value, when...) }
	return s.commit(ctx, n, m.record, later, put, func() {})
}

// receive reads a body that fits a value into a buffer, and returns its MD5 if those are kept.
func (s *Service) receive(ctx context.Context, body Body) (*client.Buffer, string, error) {
	if err := s.bodies.take(ctx, body.Size); err != nil {
		return nil, "", err
	}
	defer s.bodies.give(body.Size)
	b, err := s.store.NewBuffer(ctx, int(body.Size))
	if err != nil {
		return nil, "", err
	}
	sum := s.md5()
	err = fill(body.Reader, b.Bytes(), sum)
	if err == nil {
		err = ended(body.Reader)
	}
	if err == nil && MayBeManifest(body.Size) && IsManifest(b.Bytes()) {
		err = ErrReserved
	}
	if err != nil {
		b.Release()
		return nil, "", err
	}
	return b, text(sum), nil
}

func (s *Service) md5() hash.Hash {
	if !s.cfg.MD5 {
		return nil
	}
	return md5.New()
}

func text(h hash.Hash) string {
	if h == nil {
		return ""
	}
	return hex.EncodeToString(h.Sum(nil))
}

// fill reads exactly len(to) bytes.
func fill(from io.Reader, to []byte, sum hash.Hash) error {
	n, err := io.ReadFull(from, to)
	if err == io.EOF && n == 0 && len(to) > 0 || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %d bytes are missing", ErrIncomplete, len(to)-n)
	}
	if err == nil && sum != nil {
		sum.Write(to)
	}
	return err
}

// ended checks that a body that was read has nothing left, and lets it object at its end.
func ended(body io.Reader) error {
	var more [1]byte
	n, err := io.ReadFull(body, more[:])
	if n > 0 {
		return fmt.Errorf("%w: it is longer", ErrIncomplete)
	}
	if err != io.EOF {
		return err
	}
	return nil
}

// putChunks stores a body in chunks. After an error there are none.
func (s *Service) putChunks(ctx context.Context, n Name, body Body) (r run, sum string, err error) {
	r = run{ID: newID(time.Now()), Bytes: body.Size, ChunkBytes: s.cfg.ChunkBytes}
	if err := s.staged.add(body.Size, s.cfg.StagingBytes); err != nil {
		return r, "", err
	}
	md := s.md5()
	for number, left := int64(0), body.Size; left > 0 && err == nil; number++ {
		bytes := min(left, r.ChunkBytes)
		err = s.putChunk(ctx, n.chunkKey(r.ID, number), body.Reader, bytes, md)
		left -= bytes
	}
	if err == nil {
		err = ended(body.Reader)
	}
	if err != nil {
		s.staged.remove(body.Size)
		s.retire(retired{n, r.ID, 0})
	}
	return r, text(md), err
}

func (s *Service) putChunk(ctx context.Context, key []byte, body io.Reader, bytes int64, sum hash.Hash) error {
	if err := s.bodies.take(ctx, bytes); err != nil {
		return err
	}
	defer s.bodies.give(bytes)
	b, err := s.store.NewBuffer(ctx, int(bytes))
	if err != nil {
		return err
	}
	if err := fill(body, b.Bytes(), sum); err != nil {
		b.Release()
		return err
	}
	_, err = s.store.PutBuffer(ctx, key, b)
	return err
}

// Delete removes an object. Without a condition, removing what is not there succeeds; the generation is then
// dramnode.Absent.
func (s *Service) Delete(ctx context.Context, n Name, when ...client.Option) (dramnode.Generation, error) {
	if err := n.Check(); err != nil {
		return 0, err
	}
	old := s.readRecord(ctx, n)
	if old.err != nil {
		return 0, old.err
	}
	runs, err := s.runsOf(ctx, n, old)
	if err != nil {
		return 0, err
	}
	g, err := s.store.Remove(ctx, n.valueKey(), when...)
	if err != nil {
		return 0, err
	}
	for _, run := range runs {
		s.retire(retired{n, run.ID, s.cfg.Grace})
	}
	if old.at != dramnode.Absent {
		// A record that stays describes a generation that is gone for ever: the sweep removes it.
		if _, err := s.store.Remove(context.WithoutCancel(ctx), n.recordKey(), client.IfGeneration(old.at)); err != nil && !errors.Is(err, dramnode.ErrGenerationMismatch) {
			s.cfg.Log.Debug().Err(err).Msg("record left behind")
		}
	}
	return g, nil
}
