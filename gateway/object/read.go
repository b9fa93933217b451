package object

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
)

// A Range says which bytes of an object: those from Start to End, exclusive; with End -1 to the object's end; with
// a negative Start the last -Start. What lies beyond the end is cut off.
type Range struct{ Start, End int64 }

// All is every byte.
var All = Range{0, -1}

// Of is the range of an object with so many bytes: the empty one when it lies behind the end.
func (r Range) Of(size int64) (start, end int64) {
	if r.Start < 0 {
		return max(0, size+r.Start), size
	}
	end = r.End
	if end < 0 || end > size {
		end = size
	}
	return min(r.Start, size), max(end, min(r.Start, size))
}

// window is how much of a long object is read at once: the memory that a slow reader may hold.
const window = 8 << 20

// A Reader is an object, or a range of it, to be written somewhere. Close it.
type Reader struct {
	Info
	Name       Name
	Start, End int64 // the bytes that WriteTo writes

	ctx      context.Context // of the request, which the Reader does not outlive
	service  *Service
	manifest *manifest      // nil: the object is one value
	first    *client.Buffer // bytes from Start, maybe not all; nil: none read yet
}

// Close gives memory back.
func (r *Reader) Close() {
	if r.first != nil {
		r.first.Release()
		r.first = nil
	}
}

// Stat returns what there is to know of an object. The conditions are those of a read.
func (s *Service) Stat(ctx context.Context, n Name, when ...client.Option) (Info, error) {
	r, err := s.Open(ctx, n, Range{0, 0}, when...)
	if err != nil {
		return Info{}, err
	}
	r.Close()
	return r.Info, nil
}

const openTries = 16

// Open starts to read. The conditions, IfGeneration and IfNotGeneration, are about the object's generation. A
// missing object is dramnode.ErrNotFound whatever the condition.
func (s *Service) Open(ctx context.Context, n Name, want Range, when ...client.Option) (*Reader, error) {
	if err := n.Check(); err != nil {
		return nil, err
	}
	for range openTries {
		r, err := s.open(ctx, n, want, when)
		if !errors.Is(err, ErrReplaced) {
			return r, err
		}
	}
	return nil, fmt.Errorf("object: %w: %q changes all the time", dramnode.ErrBusy, n.path())
}

// open fails with ErrReplaced when a manifest was replaced between two looks at it.
func (s *Service) open(ctx context.Context, n Name, want Range, when []client.Option) (*Reader, error) {
	record := s.recordOf(ctx, n)
	defer record()
	b, meta, err := s.store.GetBuffer(ctx, n.valueKey(), append(want.options(), when...)...)
	if err != nil {
		return nil, err
	}
	r := &Reader{ctx: ctx, service: s, Name: n, first: b}
	if MayBeManifest(meta.Size) && meta.Size <= maxManifestBytes {
		if r.manifest, err = s.manifestOf(ctx, n, meta.Generation); err != nil {
			r.Close()
			return nil, err
		}
	}
	if r.manifest != nil {
		r.Close()
		r.manifest.Generation = meta.Generation
		r.Info = r.manifest.info(meta.Generation, meta.Size)
	} else {
		known := record()
		if known.err != nil {
			r.Close()
			return nil, known.err
		}
		r.Info = known.info(meta.Generation, meta.Size)
	}
	r.Start, r.End = want.Of(r.Size)
	return r, nil
}

// options are those of the first read: it shows the length, and brings the bytes if they are not too many.
func (r Range) options() []client.Option {
	switch {
	case r.Start < 0 && r.Start >= -window:
		return []client.Option{client.Suffix(-r.Start), client.Clip()}
	case r.Start < 0:
		return []client.Option{client.Range(0, 0)}
	case r.End < 0 || r.End-r.Start > window:
		return []client.Option{client.Range(r.Start, r.Start+window), client.Clip()}
	}
	return []client.Option{client.Range(r.Start, r.End), client.Clip()}
}

// manifestOf returns the manifest that generation g of the value is, nil when it is something else.
func (s *Service) manifestOf(ctx context.Context, n Name, g dramnode.Generation) (*manifest, error) {
	v, err := s.store.Get(ctx, n.valueKey(), client.Range(0, int64(len(magic))), client.Clip(), client.IfGeneration(g))
	if err == nil && !IsManifest(v.Bytes) {
		return nil, nil
	}
	if err == nil {
		v, err = s.store.Get(ctx, n.valueKey(), client.IfGeneration(g))
	}
	if errors.Is(err, dramnode.ErrGenerationMismatch) || errors.Is(err, dramnode.ErrNotFound) {
		return nil, fmt.Errorf("%w: %q", ErrReplaced, n.path())
	}
	if err != nil {
		return nil, err
	}
	return parseManifest(v.Bytes)
}

// WriteTo writes the bytes from Start to End. It fails with ErrReplaced when the object was overwritten
// meanwhile and the rest of this generation is gone.
func (r *Reader) WriteTo(w io.Writer) (written int64, err error) {
	if r.manifest != nil {
		return r.writeChunks(w)
	}
	at := r.Start
	for at < r.End {
		b := r.first
		if r.first = nil; b == nil || len(b.Bytes()) == 0 {
			if b != nil {
				b.Release()
			}
			b, _, err = r.service.store.GetBuffer(r.ctx, r.Name.valueKey(), client.Range(at, min(at+window, r.End)), client.IfGeneration(r.Generation))
			if err != nil {
				return at - r.Start, r.gone(err)
			}
		}
		n, err := w.Write(b.Bytes()[:min(int64(len(b.Bytes())), r.End-at)])
		b.Release()
		at += int64(n)
		if err != nil {
			return at - r.Start, err
		}
	}
	return at - r.Start, nil
}

// gone explains that what this reader pinned is not there any more.
func (r *Reader) gone(err error) error {
	if errors.Is(err, dramnode.ErrGenerationMismatch) || errors.Is(err, dramnode.ErrNotFound) {
		return fmt.Errorf("%w: %q: %w", ErrReplaced, r.Name.path(), err)
	}
	return err
}

func (r *Reader) writeChunks(w io.Writer) (written int64, err error) {
	skip, left := r.Start, r.End-r.Start
	for _, run := range r.manifest.Runs {
		if skip >= run.Bytes {
			skip -= run.Bytes
			continue
		}
		for at := skip; at < run.Bytes && left > 0; {
			number := at / run.ChunkBytes
			from := at - number*run.ChunkBytes
			to := min(run.ChunkBytes, run.Bytes-number*run.ChunkBytes, from+left)
			n, err := r.writeChunk(w, run, number, from, to)
			written += n
			if err != nil {
				return written, err
			}
			at, left = at+n, left-n
		}
		skip = 0
	}
	return written, nil
}

// writeChunk writes the bytes [from,to) of one chunk.
func (r *Reader) writeChunk(w io.Writer, run run, number, from, to int64) (int64, error) {
	b, meta, err := r.service.store.GetBuffer(r.ctx, r.Name.chunkKey(run.ID, number), client.Range(from, to))
	if err != nil {
		return 0, r.gone(err)
	}
	defer b.Release()
	if want := min(run.ChunkBytes, run.Bytes-number*run.ChunkBytes); meta.Size != want {
		return 0, fmt.Errorf("object: %w: chunk %d of %q has %d bytes, want %d", dramnode.ErrCorrupt, number, r.Name.path(), meta.Size, want)
	}
	n, err := w.Write(b.Bytes())
	return int64(n), err
}

// Pipe calls use with the bytes from Start to End as a body.
func (r *Reader) Pipe(use func(Body) error) error {
	in, out := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, err := r.WriteTo(out)
		out.CloseWithError(err) // nil stands for io.EOF
	}()
	err := use(Body{Reader: in, Size: r.End - r.Start})
	in.CloseWithError(io.ErrClosedPipe)
	<-done
	return err
}
