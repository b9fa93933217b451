package node

import (
	"sync/atomic"

	"github.com/dramnode/dramnode/wire"
)

// counters counts replies by kind and status.
type counters [64][32]atomic.Uint64

func (n *Node) count(k wire.Kind, s wire.Status) { n.counters[k&63][s&31].Add(1) }

var kindNames = map[wire.Kind]string{
	wire.KindGet: "get", wire.KindPut: "put", wire.KindDelete: "delete", wire.KindTouch: "touch", wire.KindList: "list",
	wire.KindDeleteRange: "delete_range", wire.KindTable: "table", wire.KindInfo: "info", wire.KindShare: "share",
	wire.KindReplica: "replica", wire.KindMember: "member", wire.KindAccept: "accept", wire.KindRecover: "recover",
}

// snapshot names the counters that are not 0: "get.ok", "put.no_memory".
func (c *counters) snapshot() map[string]uint64 {
	out := map[string]uint64{}
	for k := range c {
		for s := range c[k] {
			if v := c[k][s].Load(); v > 0 {
				out[kindNames[wire.Kind(k)]+"."+wire.Status(s).String()] = v
			}
		}
	}
	return out
}
