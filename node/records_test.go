package node

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/wire"
)

// TestFullRecords has a node that can remember few writes, alone and as a backup of others: writes of new clients are refused by its
// name, retries of what is remembered are answered, who acknowledges goes on, and no configuration changes for it.
func TestFullRecords(t *testing.T) {
	eachCount(t, func(t *testing.T, copies func(*Config)) {
		c := newClusterWith(t, 85, with(copies, failover, func(cfg *Config) {
			if cfg.Name == "n3" {
				cfg.RecordBytes = 4 << 10
			}
		}), three...)
		user := c.caller()
		body := []byte("value")
		write := func(key string, client, counter uint64) (reply, error) {
			h := putOf(key, body)
			h.Ext = wire.AppendWriteExt(nil, wire.WriteExt{Client: client, Counter: counter, FirstUnacked: counter})
			return user.do("n1", h, body)
		}
		before := c.nodes["n1"].plane.member.Table()
		type remembered struct {
			key string
			gen dramnode.Generation
		}
		kept, named := map[uint64]remembered{}, 0
		for client := uint64(1); named < 5; client++ {
			key := fmt.Sprintf("key-%d", client)
			switch r, err := write(key, client, 1); {
			case client > 1000:
				t.Fatal("n3 remembers them all")
			case err == nil:
				kept[client] = remembered{key, r.ext.Generation}
			case errors.Is(err, dramnode.ErrBusy) && strings.Contains(string(r.body), "records of node n3 are full"):
				named++
				if got, err := user.get("n2", key); !errors.Is(err, dramnode.ErrNotFound) {
					t.Errorf("%s, which was refused: %q, %v", key, got, err)
				}
			default:
				t.Fatalf("%s: %v: %s", key, err, r.body)
			}
		}
		for client, was := range kept {
			if r, err := write(was.key, client, 1); err != nil || r.ext.Generation != was.gen {
				t.Errorf("the retry of %s: generation %d, %v: %s, want the first one's %d", was.key, r.ext.Generation, err, r.body, was.gen)
			}
			if r, err := write(was.key, client, 2); err != nil {
				t.Errorf("the next write of a client that acknowledged the first: %v: %s", err, r.body)
			}
		}
		info, refused := c.nodes["n3"].Info().Records, uint64(0)
		for _, n := range c.nodes {
			refused += n.Info().Records.Refused
		}
		if len(kept) == 0 || info.Bytes == 0 || info.Bytes > info.Limit || info.Limit != 4<<10 || refused < 5 {
			t.Errorf("%d clients were served; n3 tells of %+v, all of %d refusals", len(kept), info, refused)
		}
		for p, r := range c.nodes["n1"].plane.member.Table().Rows {
			if r.Epoch != before.Rows[p].Epoch {
				t.Errorf("partition %d got another configuration: %+v, was %+v", p, r, before.Rows[p])
			}
		}
	})
}
