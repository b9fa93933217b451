package proc

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// A Binary is the program under test, built at most once.
type Binary struct {
	// Path, if set, is used as it is and nothing is built.
	Path string
	// Race builds with the race detector.
	Race bool

	pkg  string // what to build; dramnode if empty
	once sync.Once
	dir  string
	err  error
}

// BinaryFromEnv returns the program that DRAMNODE_BIN names, or one to be built from this module;
// DRAMNODE_RACE=1 builds it with the race detector.
func BinaryFromEnv() *Binary {
	return &Binary{Path: os.Getenv("DRAMNODE_BIN"), Race: os.Getenv("DRAMNODE_RACE") == "1"}
}

// Build returns the path of the program, which the first call builds. It may be called by many
// tests at once; all but the first wait. A TestMain calls Remove after the last test.
func (b *Binary) Build() (path string, err error) {
	b.once.Do(func() {
		if b.Path == "" {
			b.err = b.build()
		}
	})
	return b.Path, b.err
}

// Remove deletes what Build made, and nothing else.
func (b *Binary) Remove() error {
	if b.dir == "" {
		return nil
	}
	return os.RemoveAll(b.dir)
}

func (b *Binary) build() error {
	dir, err := os.MkdirTemp("", "dramnode-bin-")
	if err != nil {
		return fmt.Errorf("proc: %w", err)
	}
	b.dir = dir
	path := filepath.Join(dir, "dramnode")
	args := []string{"build", "-o", path}
	if b.Race {
		args = append(args, "-race")
	}
	pkg := b.pkg
	if pkg == "" {
		pkg = "github.com/dramnode/dramnode/cmd/dramnode"
	}
	args = append(args, pkg)
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("proc: go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	b.Path = path
	return nil
}
