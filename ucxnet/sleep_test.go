package ucxnet

import (
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/dramnode/dramnode/transport"
)

func newTestSleeper(t *testing.T, fds ...int) *sleeper {
	t.Helper()
	s, err := newSleeper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	for _, fd := range fds {
		if err := s.watch(fd); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// Whatever is pushed at whatever moment ends the park: the consumer sleeps after every single call.
func TestSleeperLosesNoPush(t *testing.T) {
	s := newTestSleeper(t)
	in := &inbox{sleeper: s}
	var taken atomic.Int64
	stop := make(chan struct{})
	consumed := make(chan struct{})
	go func() {
		defer close(consumed)
		for {
			for c := in.take(); c != nil; c = c.Transport.Next {
				taken.Add(1)
			}
			select {
			case <-stop:
				return
			default:
			}
			s.park(time.Hour, func() bool { return !in.empty() })
		}
	}()
	limit := time.Now().Add(20 * time.Second)
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		want := taken.Load() + 1
		c := &transport.Call{}
		in.push(c, c)
		for taken.Load() < want {
			if time.Now().After(limit) {
				t.Fatalf("push %d was never taken", want)
			}
		}
	}
	t.Logf("%d pushes", taken.Load())
	close(stop)
	s.wake()
	<-consumed
}

// What is readable already ends a park, though the netpoller saw its edge long ago.
func TestSleeperSeesOldEdges(t *testing.T) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fds[0])
	defer syscall.Close(fds[1])
	s := newTestSleeper(t, fds[0])
	never := func() bool { return false }
	if s.park(20*time.Millisecond, never) {
		t.Error("woken by nothing")
	}
	if _, err := syscall.Write(fds[1], []byte{1}); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if !s.park(10*time.Second, never) {
			t.Fatalf("park %d slept though there was something to read", i)
		}
	}
	var b [1]byte
	if _, err := syscall.Read(fds[0], b[:]); err != nil {
		t.Fatal(err)
	}
	if s.park(20*time.Millisecond, never) {
		t.Error("woken though everything was read")
	}
}

func TestLateWakeIsHarmless(t *testing.T) {
	s, err := newSleeper()
	if err != nil {
		t.Fatal(err)
	}
	s.close()
	s.wake() // the descriptors may be somebody else's by now
}

// Host names are looked up, and every address is tried in turn.
func TestDialByName(t *testing.T) {
	sc := testConfig(transport.RoleNode)
	sc.Listen, sc.Handler = "127.0.0.1:0", &store{}
	_, port, err := net.SplitHostPort(start(t, sc).Addr())
	if err != nil {
		t.Fatal(err)
	}
	c := start(t, testConfig(transport.RoleClient))
	dialOpen(t, c, "localhost:"+port)
	l := dial(t, c, "no-such-host.invalid:1")
	eventually(t, func() error {
		var lookup *net.DNSError
		if err := l.Info().Err; !errors.As(err, &lookup) {
			return fmt.Errorf("the link says %w, want a failed look-up", err)
		}
		return nil
	})
}
