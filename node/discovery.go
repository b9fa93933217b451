package node

import (
	"context"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/gossip"
)

// A sighting is a process that gossip knows of.
type sighting struct {
	incarnation uint64
	addr        string // to dial
	gossip      string // where its gossip listens, to be compared with seeds
	cluster     uint64 // 0: it has no table
}

const resolveTimeout = 2 * time.Second

// onGossip dials who is new, hangs up on who is neither gossiped nor in the table.
func (n *Node) onGossip() {
	wanted := map[string]bool{}
	for _, m := range n.gossip.Members() {
		if m.Incarnation != n.self.Incarnation {
			wanted[m.Addr] = true
		}
	}
	for _, m := range n.strangers() {
		wanted[m.Addr] = true
	}
	n.dial(wanted)
}

// strangers are the members of a cluster that gossip keeps us away from because its settings differ. As
// long as we have no table we ask them all the same to let us in: their answer says what differs, and
// ends this node.
func (n *Node) strangers() (metas []gossip.Meta) {
	if n.view.Load() != nil {
		return nil
	}
	for _, r := range n.gossip.Status().Refusals {
		if r.Meta.ClusterID != 0 && r.Meta.Settings != n.cfg.digest() {
			metas = append(metas, r.Meta)
		}
	}
	return metas
}

// followTable does what a new table asks for outside the data path.
func (n *Node) followTable() {
	t := n.plane.table()
	err := n.gossip.Update(func(m *gossip.Meta) { m.ClusterID, m.TableVersion = t.ClusterID, t.Version })
	if err != nil {
		n.cfg.Log.Error().Err(err).Msg("gossip does not take the table's version")
	}
	n.onGossip()
}

func (n *Node) dial(wanted map[string]bool) {
	if t := n.plane.table(); t != nil {
		for i := range t.Members {
			if t.Members[i].Incarnation != n.self.Incarnation {
				wanted[t.Members[i].Addr] = true
			}
		}
	}
	delete(wanted, n.self.Addr)
	for addr := range wanted {
		if _, err := n.peers.link(addr); err != nil {
			n.cfg.Log.Warn().Err(err).Str("addr", addr).Msg("peer cannot be dialled")
		}
	}
	n.peers.keep(wanted)
}

func (n *Node) sightings() []sighting {
	members := n.gossip.Members()
	sightings := make([]sighting, 0, len(members))
	for _, m := range members {
		if !m.Alive {
			continue
		}
		if m.Incarnation == n.self.Incarnation {
			m.GossipAddr = n.gossipAddr()
		}
		sightings = append(sightings, sighting{m.Incarnation, m.Addr, m.GossipAddr, m.ClusterID})
	}
	for _, m := range n.strangers() {
		sightings = append(sightings, sighting{incarnation: m.Incarnation, addr: m.Addr, cluster: m.ClusterID})
	}
	return sightings
}

// founders resolves the seed list, for the plane to compare with what gossip sees. A node that is not
// in its own list never founds a cluster.
func (n *Node) founders() ([]string, error) {
	self := n.gossipAddr()
	var addresses []string
	for _, seed := range n.cfg.Join {
		a, err := resolve(seed)
		if err != nil {
			return nil, err
		}
		addresses = append(addresses, a)
	}
	if !slices.Contains(addresses, self) {
		return nil, nil
	}
	return addresses, nil
}

// gossipAddr is where others reach our gossip, "" while that is not known.
func (n *Node) gossipAddr() string {
	if _, port, _ := net.SplitHostPort(n.cfg.GossipAdvertise); port == "0" {
		return n.gossip.Addr()
	}
	addr, err := resolve(n.cfg.GossipAdvertise)
	if err != nil {
		return ""
	}
	return addr
}

func resolve(addr string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", fmt.Errorf("%w: %w", dramnode.ErrInvalid, err)
	}
	if net.ParseIP(host) != nil {
		return addr, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), resolveTimeout)
	defer cancel()
	ips, err := net.DefaultResolver.LookupIP(ctx, "ip4", host)
	if err != nil {
		return "", fmt.Errorf("%w: %w", dramnode.ErrUnavailable, err)
	}
	return net.JoinHostPort(ips[0].String(), port), nil
}
