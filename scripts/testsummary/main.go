// Command testsummary reads the output of "go test -json" and prints it as plain "go test" would:
// the lines of packages, and all that failed or skipped tests said. It appends its counts to the
// file named by its argument, as "passed failed skipped", and exits with 1 if anything failed.
//
// A package that does not build, or dies outside a test, counts as one failure.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "testsummary:", err)
		os.Exit(1)
	}
}

func run(args []string, in io.Reader, out io.Writer) error {
	if len(args) != 1 {
		return errors.New("usage: go test -json ... | testsummary COUNTS-FILE")
	}
	var s summary
	readErr := s.read(in, out)
	file, err := os.OpenFile(args[0], os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(file, s.passed, s.failed, s.skipped)
	if err := errors.Join(readErr, err, file.Close()); err != nil {
		return err
	}
	if s.failed > 0 {
		return fmt.Errorf("%d failed", s.failed)
	}
	return nil
}

// An event is one line of "go doc test2json".
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
}

type testID struct{ pkg, test string }

type summary struct {
	passed, failed, skipped int

	said       map[testID][]string // output of tests that still run
	testFailed map[string]bool     // packages that a failed test explains
}

// read handles all of in. Lines that are no events, such as those of a go command that gives up
// early, are printed as they are.
func (s *summary) read(in io.Reader, out io.Writer) error {
	s.said = make(map[testID][]string)
	s.testFailed = make(map[string]bool)
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			var e event
			if !strings.HasPrefix(line, "{") || json.Unmarshal([]byte(line), &e) != nil {
				fmt.Fprint(out, line)
			} else {
				s.handle(e, out)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (s *summary) handle(e event, out io.Writer) {
	id := testID{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		fmt.Fprint(out, e.Output)
	case "output":
		if e.Test != "" {
			s.said[id] = append(s.said[id], e.Output)
		} else if e.Output != "PASS\n" { // the package's ok line says so
			fmt.Fprint(out, e.Output)
		}
	case "pass", "fail", "skip":
		if e.Test == "" {
			s.endPackage(e, out)
		} else {
			s.endTest(id, e.Action, out)
		}
	}
}

func (s *summary) endTest(id testID, action string, out io.Writer) {
	switch action {
	case "pass":
		s.passed++
	case "fail":
		s.failed++
		s.testFailed[id.pkg] = true
	case "skip":
		s.skipped++
	}
	if action != "pass" {
		s.show(id, out)
	}
	delete(s.said, id)
}

// endPackage shows what tests said that never ended, as in a panic or at a timeout.
func (s *summary) endPackage(e event, out io.Writer) {
	for id := range s.said {
		if id.pkg != e.Package {
			continue
		}
		s.show(id, out)
		delete(s.said, id)
	}
	if e.Action == "fail" && !s.testFailed[e.Package] {
		s.failed++
	}
}

func (s *summary) show(id testID, out io.Writer) {
	for _, line := range s.said[id] {
		if !strings.HasPrefix(line, "=== ") { // run, pause, cont, name
			fmt.Fprint(out, line)
		}
	}
}
