package main

import (
	"strings"
	"testing"
)

func TestProfileGroups(t *testing.T) {
	const text = `
	ffffffff81 copy_user_generic ([kernel.kallsyms])
	ffffffff82 tcp_sendmsg ([kernel.kallsyms])
	ffffffff83 __x64_sys_sendto ([kernel.kallsyms])
	7f01 send (/usr/lib/x86_64-linux-gnu/libc.so.6)

	7f02 ucp_worker_progress (/usr/lib/libucp.so.0.0.0)

	4711 runtime.memmove (/x/dramnode)
	4712 github.com/dramnode/dramnode/wire.AppendFrame (/x/dramnode)
	4713 github.com/dramnode/dramnode/ucxnet.(*poller).appendFrame (/x/dramnode)

	4714 runtime.goready (/x/dramnode)
	4712 github.com/dramnode/dramnode/client.(*op).Complete (/x/dramnode)

	ffffffff84 native_irq_return ([kernel.kallsyms])

	4715 main.main (/x/dramnode)
`
	p, err := parseProfile(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"kernel: sockets", "UCX", "codec (wire)", "goroutines", "kernel: interrupts and the rest", elsewhere} {
		if p.counts[name] != 1 {
			t.Errorf("%d samples of %q, want 1; all: %v", p.counts[name], name, p.counts)
		}
	}
	if p.total != 6 {
		t.Errorf("%d samples, want 6", p.total)
	}
}
