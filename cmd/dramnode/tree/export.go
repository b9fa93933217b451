package tree

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/dramnode/dramnode"
)

// ErrUnsafeKey is why a key is not exported: its path would not be one below the directory.
var ErrUnsafeKey = errors.New("the key is not a path below the directory")

// Export writes the value of every key that starts with prefix to dir, which is made when missing,
// under the rest of its key. A file appears complete or not at all; one that is there is replaced.
// The error is about the whole copy; the summary's Err about single keys.
func Export(ctx context.Context, store Store, prefix, dir string, o Options) (Summary, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Summary{}, fmt.Errorf("%w: %w", dramnode.ErrInvalid, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Summary{}, fmt.Errorf("%w: %w", dramnode.ErrInvalid, err)
	}
	defer root.Close() // holds no data
	c := &copier{Options: o.withDefaults()}
	feed := func(ctx context.Context, job func(string) bool) error {
		for key, err := range store.Keys(ctx, []byte(prefix)) {
			if err != nil {
				return err
			}
			if !job(string(key)) {
				return nil
			}
		}
		return nil
	}
	var temps atomic.Uint64
	return c.run(ctx, feed, func(ctx context.Context, key string) (int, error) {
		return exportKey(ctx, store, root, key, prefix, temps.Add(1))
	})
}

func exportKey(ctx context.Context, store Store, root *os.Root, key, prefix string, temp uint64) (int, error) {
	name, err := fileName(key, prefix)
	if err != nil {
		return 0, err
	}
	value, err := store.Get(ctx, []byte(key))
	if errors.Is(err, dramnode.ErrNotFound) {
		return 0, fmt.Errorf("%w: %w", errGone, err) // after it was listed
	}
	if err != nil {
		return 0, err
	}
	return len(value), writeFile(root, name, value, temp)
}

// fileName is the path below the directory for key.
func fileName(key, prefix string) (string, error) {
	rest, ok := strings.CutPrefix(key, prefix)
	switch {
	case !ok || rest == "" || strings.HasSuffix(rest, "/"):
		return "", fmt.Errorf("%w: nothing is left of it as a file name", ErrUnsafeKey)
	case strings.HasPrefix(rest, "/"):
		return "", fmt.Errorf("%w: it is absolute (a prefix that ends with / takes the slash away)", ErrUnsafeKey)
	case strings.ContainsRune(rest, 0):
		return "", fmt.Errorf("%w: it has a zero byte", ErrUnsafeKey)
	case path.Clean(rest) != rest || !filepath.IsLocal(filepath.FromSlash(rest)) || rest == ".":
		return "", fmt.Errorf("%w: it has empty, . or .. parts", ErrUnsafeKey)
	}
	return filepath.FromSlash(rest), nil
}

// writeFile replaces name by a file with these bytes in one step. temp tells the writers of one copy
// apart, the process id those of two.
func writeFile(root *os.Root, name string, value []byte, temp uint64) (err error) {
	dir := filepath.Dir(name)
	if err := root.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	tempName := filepath.Join(dir, ".dramnode-"+strconv.Itoa(os.Getpid())+"-"+strconv.FormatUint(temp, 10)+".tmp")
	f, err := root.OpenFile(tempName, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, root.Remove(tempName))
		}
	}()
	if _, err := f.Write(value); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return err
	}
	return root.Rename(tempName, name)
}
