package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dramnode/dramnode/config"
)

// A table is rows of cells that print in columns.
type table struct{ w *tabwriter.Writer }

// row adds one row.
func (t table) row(cells ...any) {
	for i, cell := range cells {
		if i > 0 {
			fmt.Fprint(t.w, "\t")
		}
		fmt.Fprint(t.w, cell) // the writer keeps its first error for Flush
	}
	fmt.Fprintln(t.w)
}

// print writes value as one line of JSON when --json was given, else what human writes.
func (a *app) print(value any, human func(t table)) error {
	if a.json {
		return json.NewEncoder(a.stdout).Encode(value)
	}
	w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
	human(table{w})
	return w.Flush()
}

// printError writes err for people, or with --json as {"error": ..., "code": ...}.
func (a *app) printError(err error) {
	if a.json {
		// The process ends with the same code, whether or not this can be written.
		_ = json.NewEncoder(a.stderr).Encode(struct {
			Error string `json:"error"`
			Code  int    `json:"code"`
		}{err.Error(), exitCode(err)})
		return
	}
	for line := range strings.Lines(err.Error()) { // errors.Join makes lines
		fmt.Fprintln(a.stderr, "dramnode:", strings.TrimPrefix(strings.TrimSuffix(line, "\n"), "dramnode: "))
	}
}

// terminal tells whether somebody looks at f.
func terminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && info.Mode()&os.ModeDevice != 0 && os.Getenv("TERM") != "dumb" && !isNull(info)
}

// isNull tells the null device, which is a character device too.
func isNull(info os.FileInfo) bool {
	null, err := os.Stat(os.DevNull)
	return err == nil && os.SameFile(info, null)
}

// every calls draw at each interval, and once more when stop is called.
func every(interval time.Duration, draw func()) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				draw()
			case <-quit:
				draw()
				return
			}
		}
	}()
	return func() { close(quit); <-done }
}

// drawProgress writes one line over the last one.
func drawProgress(w io.Writer, files, bytes, totalBytes int64, since time.Duration) {
	const width = 24
	bar, of := "", ""
	if totalBytes > 0 {
		filled := int(min(width, width*bytes/totalBytes))
		bar = "[" + strings.Repeat("#", filled) + strings.Repeat(".", width-filled) + "] "
		of = " of " + config.Bytes(totalBytes).Human()
	}
	fmt.Fprintf(w, "\r%s%d files, %s%s, %.2f GB/s\x1b[K", bar, files, config.Bytes(bytes).Human(), of, float64(bytes)/1e9/max(since.Seconds(), 1e-3))
}
