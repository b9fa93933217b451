package ucxnet

import "strings"

// parseLanes finds what carries an endpoint's traffic in UCX's own description of it, whose lanes
// look like
//
//	lane[1]:  0:tcp/lo.0 md[0]   -> md[0]/tcp/sysdev[255] rma_bw#0 am am_bw#0 wireup
//
// The result is the transport of the active-message lane and, when it differs, that of the
// rendezvous lane: "tcp/lo", "sysv+cma". It is a report for people, "unknown" if nothing fits.
func parseLanes(text string) string {
	var am, bulk string
	for line := range strings.Lines(text) {
		_, lane, isLane := strings.Cut(line, "lane[")
		_, lane, hasName := strings.Cut(lane, "]:")
		left, right, hasPeer := strings.Cut(lane, "->")
		fields := strings.Fields(left)
		if !isLane || !hasName || !hasPeer || len(fields) == 0 {
			continue
		}
		for _, use := range strings.Fields(right) {
			switch {
			case am == "" && use == "am":
				am = laneName(fields[0])
			case bulk == "" && strings.HasPrefix(use, "rma_bw"):
				bulk = laneName(fields[0])
			}
		}
	}
	switch {
	case am == "":
		return "unknown"
	case bulk == "" || bulk == am:
		return am
	}
	return am + "+" + bulk
}

// laneName turns "0:tcp/lo.0" into "tcp/lo" and "1:sysv/memory.0" into "sysv".
func laneName(s string) string {
	if _, rest, ok := strings.Cut(s, ":"); ok {
		s = rest
	}
	if i := strings.LastIndexByte(s, '.'); i > 0 {
		s = s[:i]
	}
	return strings.TrimSuffix(s, "/memory")
}
