package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/dramnode/dramnode"
)

// ErrNotRegular is why links, devices, sockets and pipes are skipped.
var ErrNotRegular = errors.New("not a regular file")

// Import puts every regular file below dir. The error is about the whole copy; the summary's Err
// about single files. Links are not followed.
func Import(ctx context.Context, store Store, dir, prefix string, o Options) (Summary, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Summary{}, fmt.Errorf("%w: %w", dramnode.ErrInvalid, err)
	}
	defer root.Close() // only read
	c := &copier{Options: o.withDefaults()}
	if o.Progress != nil {
		measure(ctx, root, o.Progress)
	}
	feed := func(ctx context.Context, job func(string) bool) error {
		return fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
			switch {
			case ctx.Err() != nil:
				return fs.SkipAll
			case err != nil:
				c.failed(path, err)
				return nil // WalkDir goes on beside it
			case d.IsDir():
				return nil
			case !d.Type().IsRegular():
				c.skipped(path, fmt.Errorf("%w: %v", ErrNotRegular, d.Type()))
				return nil
			case !job(path):
				return fs.SkipAll
			}
			return nil
		})
	}
	return c.run(ctx, feed, func(ctx context.Context, path string) (int, error) {
		value, err := readFile(root, path, c.MaxValueBytes)
		if err != nil {
			return 0, err
		}
		return len(value), store.Put(ctx, []byte(prefix+path), value)
	})
}

// measure sums up what Import will find. Faults are left for Import to report.
func measure(ctx context.Context, root *os.Root, p *Progress) {
	_ = fs.WalkDir(root.FS(), ".", func(_ string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return fs.SkipAll
		}
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		if info, err := d.Info(); err == nil {
			p.TotalFiles.Add(1)
			p.TotalBytes.Add(info.Size())
		}
		return nil
	})
}

// errChanged is about a file that is not as long as it said, such as those of /proc, or that was written meanwhile.
var errChanged = errors.New("changed while it was read")

// readFile returns the file's bytes, and an error when it changed while it was read.
func readFile(root *os.Root, path string, maxBytes int64) ([]byte, error) {
	f, err := root.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	before, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if before.Size() > maxBytes {
		return nil, fmt.Errorf("%w: %d bytes, want at most %d", dramnode.ErrTooLarge, before.Size(), maxBytes)
	}
	value := make([]byte, before.Size())
	if _, err := io.ReadFull(f, value); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: %w", errChanged, err)
	}
	if n, err := f.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: it goes on after %d bytes", errChanged, len(value))
	}
	after, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if after.Size() != before.Size() || !after.ModTime().Equal(before.ModTime()) {
		return nil, errChanged
	}
	return value, nil
}
