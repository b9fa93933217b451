package ucxnet

import (
	"bytes"
	"errors"
	"testing"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/wire"
)

func identity(role transport.Role, cluster, key string) transport.Identity {
	return transport.Identity{Role: role, Cluster: cluster, Key: []byte(key), Incarnation: uint64(role) * 1000}
}

func nonce(b byte) (n [nonceBytes]byte) {
	for i := range n {
		n[i] = b
	}
	return n
}

// shake runs a handshake; tamper may change each message on its way. The errors are the dialler's and
// the acceptor's.
func shake(dialler, acceptor transport.Identity, tamper func(step uint8, b []byte) []byte) (d, a handshake, derr, aerr error) {
	d, a = newHandshake(dialler, true, nonce(1)), newHandshake(acceptor, false, nonce(2))
	answer, aerr := a.next(tamper(stepHello, d.start()))
	if answer == nil {
		return d, a, nil, aerr
	}
	finish, derr := d.next(tamper(stepAnswer, answer))
	if derr != nil || aerr != nil {
		return d, a, derr, aerr
	}
	_, aerr = a.next(tamper(stepFinish, finish))
	return d, a, nil, aerr
}

func asIs(_ uint8, b []byte) []byte { return b }

func flip(step uint8, at int) func(uint8, []byte) []byte {
	return func(s uint8, b []byte) []byte {
		if s == step {
			b = bytes.Clone(b)
			b[at] ^= 1
		}
		return b
	}
}

func TestHandshake(t *testing.T) {
	node := func(cluster, key string) transport.Identity { return identity(transport.RoleNode, cluster, key) }
	client := func(cluster, key string) transport.Identity { return identity(transport.RoleClient, cluster, key) }
	for _, c := range []struct {
		name              string
		dialler, acceptor transport.Identity
		tamper            func(uint8, []byte) []byte
		derr, aerr        error
	}{
		{"no key", client("a", ""), node("a", ""), asIs, nil, nil},
		{"same key", node("a", "k"), node("a", "k"), asIs, nil, nil},
		{"other cluster", client("a", ""), node("b", ""), asIs, refusedCluster, refusedCluster},
		{"other key", client("a", "k"), node("a", "l"), asIs, refusedKey, nil},
		{"key missing at the dialler", client("a", ""), node("a", "l"), asIs, refusedKey, refusedKey},
		{"key missing at the acceptor", client("a", "k"), node("a", ""), asIs, refusedKey, refusedKey},
		{"dialler of another version", client("a", ""), node("a", ""), flip(stepHello, 4), refusedVersion, refusedVersion},
		{"acceptor of another version", client("a", ""), node("a", ""), flip(stepAnswer, 4), refusedVersion, nil},
		{"no magic", client("a", ""), node("a", ""), flip(stepHello, 0), refusedMalformed, refusedMalformed},
		{"nonce changed", client("a", "k"), node("a", "k"), flip(stepHello, 40), refusedKey, nil},
		{"incarnation changed", client("a", "k"), node("a", "k"), flip(stepAnswer, 24), refusedKey, nil},
		{"role changed", client("a", "k"), node("a", "k"), func(s uint8, b []byte) []byte {
			if s == stepHello {
				b[6] = byte(transport.RoleNode)
			}
			return b
		}, refusedKey, nil},
		{"acceptor's proof changed", client("a", "k"), node("a", "k"), flip(stepAnswer, helloBytes), refusedKey, nil},
		{"dialler's proof changed", client("a", "k"), node("a", "k"), flip(stepFinish, 8), nil, refusedKey},
		{"hello too long", client("a", ""), node("a", ""), func(_ uint8, b []byte) []byte { return append(b, 0) }, refusedMalformed, refusedMalformed},
		{"hello cut", client("a", ""), node("a", ""), func(_ uint8, b []byte) []byte { return b[:len(b)-1] }, refusedMalformed, refusedMalformed},
		{"unknown feature", client("a", ""), node("a", ""), flip(stepHello, 9), refusedMalformed, refusedMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, a, derr, aerr := shake(c.dialler, c.acceptor, c.tamper)
			if !errors.Is(derr, c.derr) || (derr == nil) != (c.derr == nil) {
				t.Errorf("the dialler ends with %v, want %v", derr, c.derr)
			}
			if !errors.Is(aerr, c.aerr) || (aerr == nil) != (c.aerr == nil) {
				t.Errorf("the acceptor ends with %v, want %v", aerr, c.aerr)
			}
			for _, err := range []error{derr, aerr} {
				if err != nil && !errors.Is(err, dramnode.ErrNotAuthorised) {
					t.Errorf("%v is not ErrNotAuthorised", err)
				}
			}
			if ok := derr == nil && aerr == nil; ok != a.done() || ok && (!d.done() || a.theirs != d.mine || d.theirs != a.mine) {
				t.Errorf("done: dialler %v, acceptor %v; they know %+v and %+v", d.done(), a.done(), d.theirs, a.theirs)
			}
		})
	}
}

// A peer that plays our own messages back must not get in.
func TestHandshakeReflected(t *testing.T) {
	d := newHandshake(identity(transport.RoleNode, "a", "k"), true, nonce(1))
	b := d.start()
	b[5] = stepAnswer
	if _, err := d.next(append(b, make([]byte, macBytes)...)); err == nil {
		t.Error("our own hello, played back as an answer, was accepted")
	}
}

func TestHandshakeOrder(t *testing.T) {
	a := newHandshake(identity(transport.RoleNode, "a", ""), false, nonce(2))
	finish := append(appendPrefix(nil, stepFinish, transport.RoleClient, accepted), make([]byte, macBytes)...)
	if _, err := a.next(finish); err == nil || a.done() {
		t.Error("a finish without a hello was accepted")
	}
}

func FuzzHandshake(f *testing.F) {
	d := newHandshake(identity(transport.RoleClient, "a", "k"), true, nonce(1))
	a := newHandshake(identity(transport.RoleNode, "a", "k"), false, nonce(2))
	answer, err := a.next(d.start())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(d.start(), answer)
	f.Fuzz(func(t *testing.T, first, second []byte) {
		a := newHandshake(identity(transport.RoleNode, "a", "k"), false, nonce(9))
		if reply, err := a.next(first); err == nil && (a.done() || len(reply) != answerBytes || !bytes.Equal(appendHello(nil, stepHello, a.theirs), first)) {
			t.Errorf("accepted %x as %+v", first, a.theirs)
		}
		if _, err := a.next(second); err == nil || a.done() {
			t.Errorf("finished without proof by %x", second)
		}
		fresh := newHandshake(identity(transport.RoleClient, "a", "k"), true, nonce(8))
		if _, err := fresh.next(second); err == nil {
			t.Errorf("the dialler took %x, which answers another nonce", second)
		}
	})
}

func TestIntro(t *testing.T) {
	want := intro{host: 7, domain: 9, pid: 10, shmPort: 8, unshared: sharedFull, required: true, name: "a", addr: "127.0.0.1:1", build: "v1"}
	b := appendIntro(nil, want)
	if got, err := parseIntro(b); err != nil || got != want {
		t.Errorf("parseIntro = %+v, %v, want %+v", got, err, want)
	}
	for n := range b {
		if _, err := parseIntro(b[:n]); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("intro cut to %d bytes: %v, want ErrMalformed", n, err)
		}
	}
}

func FuzzIntro(f *testing.F) {
	f.Add(appendIntro(nil, intro{host: 7, domain: 9, pid: 10, shmPort: 8, unshared: sharedFull, required: true, name: "a", addr: "127.0.0.1:1", build: "v1"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if i, err := parseIntro(b); err == nil && !bytes.Equal(appendIntro(nil, i), b) {
			t.Errorf("re-encoded intro differs from %x", b)
		}
	})
}
