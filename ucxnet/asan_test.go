package ucxnet

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The C side under AddressSanitizer and LeakSanitizer, over both rails. It is a program of its own,
// since the sanitizers and the Go runtime do not share a process well.
func TestShimUnderSanitizers(t *testing.T) {
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("no gcc")
	}
	program := filepath.Join(t.TempDir(), "shim_test")
	out, err := exec.Command(gcc, "-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined",
		"-fno-sanitize-recover=undefined", "-o", program, "ctest/shim_test.c", "shim.c", "close.c", "-ldl").CombinedOutput()
	if err != nil {
		if strings.Contains(string(out), "cannot find") && strings.Contains(string(out), "asan") {
			t.Skip("gcc has no sanitizers here")
		}
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	common := []string{"UCX_HANDLE_ERRORS=none", "UCX_MEM_EVENTS=n", "UCX_NET_DEVICES=lo", "UCX_MAX_RNDV_RAILS=1", "UCX_TCP_CM_REUSEADDR=y"}
	for name, env := range map[string][]string{
		"tcp": {"UCX_TLS=tcp"},
		"shm": {"UCX_TLS=tcp,sysv,cma", "UCX_MM_ERROR_HANDLING=y", "UCX_CMA_MEMORY_INVALIDATE=y"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(program, name)
			cmd.Env = append(append(os.Environ(), common...), env...)
			if out, err := cmd.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "ok" {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
