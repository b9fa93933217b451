package ucxnet

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// UCX's tcp connection manager trusts what it reads first: a message of 16 header bytes (length u64,
// status, padding) and so many bytes of addresses. A length smaller than what came with it ends the
// process by an assertion (tcp_sockcm_ep.c of UCX 1.13.1), so a stray port scan could. The kernel is
// therefore told to drop such segments: connections inherit the filter of the listener that accepted
// them, and are judged before UCX reads.
//
// A message must fit one segment, which the few hundred bytes of tcp addresses do. The filter keeps
// accidents away; whoever means harm and reaches the port can forge what looks right.
const (
	cmHeaderBytes = 16
	cmMaxBytes    = 16 << 10 // of addresses
)

// cmFilter is a classic BPF program over a TCP segment from its header on. A is the accumulator, X the
// index register; loads are big-endian, the length is not.
func cmFilter() []unix.SockFilter {
	const drop = 0xFF            // jump to the last instruction, patched below
	const payload, second = 0, 1 // scratch memory
	f := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 12}, // data offset, in 4-byte words, in the high half
		{Code: unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K, K: 4},
		{Code: unix.BPF_ALU | unix.BPF_LSH | unix.BPF_K, K: 2},
		{Code: unix.BPF_MISC | unix.BPF_TAX}, // X = bytes of the TCP header
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_LEN},
		{Code: unix.BPF_ALU | unix.BPF_SUB | unix.BPF_X}, // A = bytes of the payload
		{Code: unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K, K: 0, Jt: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xFFFFFFFF}, // no payload: accept
		{Code: unix.BPF_ST, K: payload},
		{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, K: cmHeaderBytes, Jf: drop},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_IND, K: 4}, // the length's bytes 4 to 7 are 0
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0, Jf: drop},
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_IND, K: 2}, // and 2 and 3
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0, Jf: drop},
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_IND, K: 1},
		{Code: unix.BPF_ALU | unix.BPF_LSH | unix.BPF_K, K: 8},
		{Code: unix.BPF_ST, K: second},
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_IND, K: 0},
		{Code: unix.BPF_LDX | unix.BPF_W | unix.BPF_MEM, K: second},
		{Code: unix.BPF_ALU | unix.BPF_ADD | unix.BPF_X}, // A = length
		{Code: unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K, K: cmMaxBytes, Jt: drop},
		{Code: unix.BPF_ALU | unix.BPF_ADD | unix.BPF_K, K: cmHeaderBytes}, // A = bytes of the message
		{Code: unix.BPF_LDX | unix.BPF_W | unix.BPF_MEM, K: payload},
		{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_X, Jf: drop}, // at least the payload
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xFFFFFFFF},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	last := len(f) - 1
	for i := range f {
		if f[i].Jt == drop {
			f[i].Jt = uint8(last - i - 1)
		}
		if f[i].Jf == drop {
			f[i].Jf = uint8(last - i - 1)
		}
	}
	return f
}

// guardListener puts the filter on the socket of this process that listens on the tcp port.
func guardListener(port uint16) error {
	fd, err := listeningSocket(port)
	if err != nil {
		return err
	}
	f := cmFilter()
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}); err != nil {
		return fmt.Errorf("SO_ATTACH_FILTER: %w", err)
	}
	return nil
}

// listeningSocket finds the socket, which UCX made and does not tell of.
func listeningSocket(port uint16) (fd int, err error) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || listens == 0 {
			continue
		}
		switch sa, err := unix.Getsockname(fd); sa := sa.(type) {
		case *unix.SockaddrInet4:
			if err == nil && sa.Port == int(port) {
				return fd, nil
			}
		case *unix.SockaddrInet6:
			if err == nil && sa.Port == int(port) {
				return fd, nil
			}
		}
	}
	return 0, fmt.Errorf("no socket of this process listens on port %d", port)
}
