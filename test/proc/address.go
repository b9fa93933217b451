package proc

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
)

const (
	// nodePorts are what a node binds, one after the other: UCX, gossip (TCP and UDP), HTTP.
	nodePorts = 3
	// blockPorts adds a guard: whoever holds it, in this process or another, has the block.
	blockPorts = nodePorts + 1

	// Blocks lie below the range from which the kernel takes ports for outgoing connections, so
	// that none of those takes a port between the time it is found free and the node binding it.
	firstPort, lastPort = 15000, 32000
)

// Address returns an IP:port on the host (nil: loopback of this machine) where the port and the
// two after it are free, and stay so for other callers until t ends. A host of its own has
// all ports free, so there it is always the same.
func Address(t testing.TB, h Host) string {
	t.Helper()
	if h != nil {
		return netip.AddrPortFrom(h.Addr(), 12345).String()
	}
	const blocks = (lastPort - firstPort) / blockPorts
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	start := rand.IntN(blocks) // late messages of an earlier cluster should find nobody
	for i := range blocks {
		port := uint16(firstPort + (start+i)%blocks*blockPorts)
		guard, err := reserve(loopback, port)
		if err != nil {
			continue
		}
		t.Cleanup(func() { guard.Close() })
		return netip.AddrPortFrom(loopback, port).String()
	}
	t.Fatalf("proc: no %d free ports in a row between %d and %d", blockPorts, firstPort, lastPort)
	return ""
}

// reserve takes the guard of the block that starts at port, if the block's other ports are free.
func reserve(ip netip.Addr, port uint16) (guard net.Listener, err error) {
	guard, err = net.Listen("tcp", netip.AddrPortFrom(ip, port+nodePorts).String())
	if err != nil {
		return nil, err
	}
	for p := port; p < port+nodePorts; p++ {
		if err := free(netip.AddrPortFrom(ip, p).String()); err != nil {
			return nil, errors.Join(err, guard.Close())
		}
	}
	return guard, nil
}

// free says why addr cannot be bound for both TCP and UDP.
func free(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("proc: %w", err)
	}
	defer l.Close()
	c, err := net.ListenPacket("udp", addr)
	if err != nil {
		return fmt.Errorf("proc: %w", err)
	}
	return c.Close()
}
