package tsgrpc

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/dramnode/dramnode/gateway/gatewaytest"
)

// TestPythonClient runs a client on C-core gRPC, which TensorStore has too, as Debian has it. It makes its
// messages itself.
func TestPythonClient(t *testing.T) {
	const python = "/usr/bin/python3" // the one that Debian's packages belong to
	if out, err := exec.Command(python, "-c", "import grpc").CombinedOutput(); err != nil {
		t.Skipf("python3-grpcio is not installed (scripts/setup.sh --test): %s", out)
	}
	u, _ := serveNode(t, Config{})
	socket := filepath.Join(t.TempDir(), "s")
	for _, addr := range []string{u.Target(), "unix:" + socket} {
		if addr != u.Target() {
			serveSocket(t, socket)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, python, filepath.Join("..", "..", "scripts", "interop_tsgrpc.py"), addr, "check")
		cmd.Env = append(os.Environ(), "http_proxy=http://127.0.0.1:1")
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != "ok\n" {
			t.Errorf("%s: %v\n%s", addr, err, out)
		}
	}
}

func serveSocket(t *testing.T, path string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	store := gatewaytest.NewCluster(t, 1, 64<<20).Inside(0)
	go func() { done <- Serve(Config{})(ctx, l, store) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
