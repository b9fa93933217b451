package config

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/dramnode/dramnode"
)

// CheckListen reports an address that is not "IP:port"; the port may be 0, for any free one.
func CheckListen(flag, addr string) error {
	if _, err := netip.ParseAddrPort(addr); err != nil {
		return fmt.Errorf("%w: --%s %q: want IP:port, such as 127.0.0.1:12345", dramnode.ErrInvalid, flag, addr)
	}
	return nil
}

// CheckDial reports an address that is not "host:port" with a port other than 0.
func CheckDial(flag, addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if n, numErr := strconv.ParseUint(port, 10, 16); err != nil || numErr != nil || n == 0 || !hostLike(host) {
		return fmt.Errorf("%w: --%s %q: want host:port, such as 10.0.0.1:12345", dramnode.ErrInvalid, flag, addr)
	}
	return nil
}

// hostLike tells what could be a name, or is an IP address.
func hostLike(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil || host != "" && !strings.ContainsAny(host, ":/,@ \t")
}

// Beside returns addr with its port raised by step, "" when addr has no port of its own to count from.
func Beside(addr string, step uint16) string {
	a, err := netip.ParseAddrPort(addr)
	if err != nil || a.Port() == 0 || a.Port() > 65535-step {
		return ""
	}
	return netip.AddrPortFrom(a.Addr(), a.Port()+step).String()
}

// WithPort returns addr, with port appended when it has none.
func WithPort(addr string, port int) string {
	if _, _, err := net.SplitHostPort(addr); err == nil {
		return addr
	}
	if a, err := netip.ParseAddr(addr); err == nil {
		return netip.AddrPortFrom(a, uint16(port)).String()
	}
	return net.JoinHostPort(addr, strconv.Itoa(port))
}

// Loopback tells whether only this machine reaches a listener on addr, "IP:port".
func Loopback(addr string) bool {
	a, err := netip.ParseAddrPort(addr)
	return err == nil && a.Addr().Unmap().IsLoopback()
}

// Unspecified tells whether addr, "IP:port", stands for every address of this machine.
func Unspecified(addr string) bool {
	a, err := netip.ParseAddrPort(addr)
	return err == nil && a.Addr().Unmap().IsUnspecified()
}
