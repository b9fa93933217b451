package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/rs/zerolog"

	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/ucxnet"
)

// A cluster is some nodes of dramnode on this machine, which may be killed and started again.
type cluster struct {
	name     string
	replicas int
	program  string
	shm      string
	nodes    []*clusterNode
	client   *client.Client
	dead     map[uint64]bool // incarnations that were killed
}

type clusterNode struct {
	*server
	name string
	port int
}

const (
	copiesTimeout = 90 * time.Second
	copiesPoll    = 20 * time.Millisecond
)

// startCluster returns when all nodes have as many copies as wanted.
func startCluster(ctx context.Context, program, shm string, nodes, replicas int) (*cluster, error) {
	c := &cluster{name: "bench-" + strconv.Itoa(replicas) + "-" + strconv.FormatUint(rand.Uint64(), 36), replicas: replicas, program: program, shm: shm, dead: map[uint64]bool{}}
	for i := range nodes {
		port, err := freePort(3)
		if err != nil {
			return nil, err
		}
		c.nodes = append(c.nodes, &clusterNode{name: "n" + strconv.Itoa(i+1), port: port})
	}
	for _, n := range c.nodes {
		if err := c.start(n); err != nil {
			c.stop()
			return nil, err
		}
	}
	err := c.open(ctx)
	if err == nil {
		err = c.awaitCopies(ctx)
	}
	if err != nil {
		c.stop()
	}
	return c, err
}

// start starts a node. It does not wait until it serves: the first ones need each other for that.
func (c *cluster) start(n *clusterNode) error {
	args := []string{"serve", "--name", n.name, "--listen", loopback(n.port), "--cluster-name", c.name, "--memory", "1GiB", "--shm", c.shm,
		"--replicas", strconv.Itoa(c.replicas), "--log-level", "error"}
	for _, seed := range c.nodes[:min(3, len(c.nodes))] {
		args = append(args, "--join", loopback(seed.port+1))
	}
	s, err := startServer(nil, func(string) bool { return true }, c.program, args...)
	n.server = s
	return err
}

// open makes the client once all nodes serve.
func (c *cluster) open(ctx context.Context) error {
	shm, err := ucxnet.ParseShmMode(c.shm)
	if err != nil {
		return err
	}
	var addrs []string
	for _, n := range c.nodes {
		if err := n.awaitReady(ctx); err != nil {
			return err
		}
		addrs = append(addrs, loopback(n.port))
	}
	network, err := ucxnet.New(ucxnet.Config{
		Identity: transport.Identity{Role: transport.RoleClient, Name: "bench", Incarnation: rand.Uint64() | 1, Cluster: c.name},
		Shm:      shm, Log: zerolog.Nop(),
	})
	if err != nil {
		return err
	}
	c.client, err = client.Open(ctx, client.Config{Network: network, Addrs: addrs})
	return err
}

func (n *clusterNode) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, copiesTimeout)
	defer cancel()
	for {
		said, err := n.ready(ctx)
		if err == nil && said == "" {
			return nil
		}
		select {
		case <-n.ended:
			return fmt.Errorf("%s ended: %w: %s", n.name, errors.Join(n.err), n.output)
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %s: %w", n.name, said, errors.Join(err, ctx.Err()))
		case <-time.After(copiesPoll):
		}
	}
}

// ready returns why the node does not serve, "" when it does.
func (n *clusterNode) ready(ctx context.Context) (reason string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+loopback(n.port+2)+"/readyz", nil)
	if err != nil {
		return "", err
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		return "", nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	return string(body), err
}

// awaitCopies waits until there are as many copies of everything as wanted, none of them at a process that was killed,
// and nothing is on the move.
func (c *cluster) awaitCopies(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, copiesTimeout)
	defer cancel()
	for {
		refreshErr := c.client.Refresh(ctx)
		short := c.short(c.client.Table())
		if short == 0 && refreshErr == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d partitions are short of copies or on the move: %w", short, errors.Join(refreshErr, ctx.Err()))
		case <-time.After(copiesPoll):
		}
	}
}

// short counts the partitions that are not as they should be in the end.
func (c *cluster) short(t *control.Table) (n int) {
	for p := range t.Rows {
		holders := holdersOf(&t.Rows[p])
		dead := slices.ContainsFunc(holders, func(i uint16) bool { return c.dead[t.Members[i].Incarnation] })
		if len(holders) != min(c.replicas, len(c.nodes)) || dead || t.Rows[p].MoveTo != control.None {
			n++
		}
	}
	return n
}

// holdersOf are the members that have a partition, its owner first.
func holdersOf(r *control.Row) []uint16 {
	holders := []uint16{r.Owner}
	for _, b := range r.Backups {
		if b != control.None {
			holders = append(holders, b)
		}
	}
	return holders
}

// leader returns the node that leads the control plane, nil when the table's is none of ours.
func (c *cluster) leader(ctx context.Context) *clusterNode {
	for _, n := range c.nodes {
		if info, err := c.client.Info(ctx, loopback(n.port)); err == nil && info.Replication.Leading {
			return n
		}
	}
	return nil
}

// index returns the member that a node is now.
func (c *cluster) index(n *clusterNode) uint16 {
	t := c.client.Table()
	i := slices.IndexFunc(t.Members, func(m control.Member) bool { return m.Name == n.name && !c.dead[m.Incarnation] })
	if i < 0 {
		return control.None
	}
	return uint16(i)
}

// kill ends a node as a crash would, and returns when that was.
func (c *cluster) kill(n *clusterNode) (at time.Time, err error) {
	c.dead[c.client.Table().Members[c.index(n)].Incarnation] = true
	at = time.Now()
	if err = n.cmd.Process.Kill(); err == nil {
		<-n.ended
	}
	return at, err
}

func (c *cluster) stop() {
	if c.client != nil {
		_ = c.client.Close() // it served until here
	}
	for _, n := range c.nodes {
		if n.server != nil {
			_ = n.cmd.Process.Kill() // fails only when it has ended; leaving in order would take long
			<-n.ended
		}
	}
}
