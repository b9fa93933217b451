package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// goTest runs the real go command on a module of one package and returns what testsummary makes of it.
func goTest(t *testing.T, testFile string) (printed, counts string, err error) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module example.test/m\n\ngo 1.26\n", "m.go": "package m\n", "m_test.go": "package m\n\n" + testFile,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "test", "-json", "./...")
	cmd.Dir = dir
	json, _ := cmd.CombinedOutput() // a failure is what is tested
	countsFile := filepath.Join(dir, "counts")
	var out strings.Builder
	err = run([]string{countsFile}, strings.NewReader(string(json)), &out)
	text, readErr := os.ReadFile(countsFile)
	if readErr != nil {
		t.Fatal(readErr)
	}
	return out.String(), strings.TrimSpace(string(text)), err
}

func TestSummary(t *testing.T) {
	const header = "import \"testing\"\n\n"
	tests := []struct {
		name, file string
		counts     string // passed failed skipped
		shown      []string
		hidden     []string
	}{
		{
			"pass with subtests",
			header + `func TestA(t *testing.T) { t.Log("quiet"); t.Run("x", func(t *testing.T) {}) }`,
			"2 0 0", []string{"ok  \texample.test/m"}, []string{"quiet", "=== RUN"},
		},
		{
			"failure and skip are shown",
			header + `func TestA(t *testing.T) { t.Skip("no facility") }
func TestB(t *testing.T) { t.Error("it broke") }
func TestC(t *testing.T) { t.Log("quiet") }`,
			"1 1 1", []string{"no facility", "it broke", "--- FAIL: TestB", "FAIL\texample.test/m"}, []string{"quiet"},
		},
		{
			"panic",
			header + `func TestA(t *testing.T) { t.Log("before"); panic("boom") }`,
			"0 1 0", []string{"before", "boom"}, nil,
		},
		{
			"exit inside a test",
			"import (\n\"os\"\n\"testing\"\n)\n\nfunc TestA(t *testing.T) { os.Exit(3) }",
			"0 1 0", []string{"FAIL\texample.test/m"}, nil,
		},
		{
			"does not build",
			header + `func TestA(t *testing.T) { undefined() }`,
			"0 1 0", []string{"undefined: undefined", "[build failed]"}, nil,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			printed, counts, err := goTest(t, tt.file)
			if counts != tt.counts {
				t.Errorf("counts %q, want %q", counts, tt.counts)
			}
			if failed := strings.Fields(tt.counts)[1] != "0"; (err != nil) != failed {
				t.Errorf("error %v, want one: %v", err, failed)
			}
			for _, want := range tt.shown {
				if !strings.Contains(printed, want) {
					t.Errorf("%q is not shown", want)
				}
			}
			for _, unwanted := range tt.hidden {
				if strings.Contains(printed, unwanted) {
					t.Errorf("%q is shown", unwanted)
				}
			}
			if t.Failed() {
				t.Log(printed)
			}
		})
	}
}
