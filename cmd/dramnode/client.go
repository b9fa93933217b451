package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"

	"github.com/rs/zerolog"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/config"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/ucxnet"
)

// with opens a client as the settings say, calls do, and closes the client.
func (a *app) with(ctx context.Context, do func(c *client.Client) error) (err error) {
	c, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := c.Close(); err == nil {
			err = closeErr
		}
	}()
	return do(c)
}

// open opens a client as the settings say; set changes what no setting says.
func (a *app) open(ctx context.Context, set ...func(*client.Config)) (*client.Client, error) {
	if a.timeout <= 0 {
		return nil, fmt.Errorf("%w: --timeout %v, want more than 0", dramnode.ErrInvalid, a.timeout)
	}
	if len(a.addrs) == 0 { // a variable that is not set must not lead to another cluster
		return nil, fmt.Errorf("%w: --addr is empty, want host:port", dramnode.ErrInvalid)
	}
	if a.clusterName == "" {
		return nil, errNoClusterName
	}
	for _, addr := range a.addrs {
		if err := config.CheckDial("addr", addr); err != nil {
			return nil, err
		}
	}
	key, err := config.ReadKey(a.keyFile)
	if err != nil {
		return nil, err
	}
	shm, err := ucxnet.ParseShmMode(a.shm)
	if err != nil {
		return nil, err
	}
	network, err := ucxnet.New(ucxnet.Config{
		Identity: transport.Identity{Role: transport.RoleClient, Name: clientName(), Incarnation: rand.Uint64() | 1, Cluster: a.clusterName, Key: key},
		Shm:      shm, Build: version, Log: zerolog.Nop(),
		Limits: ucxnet.Limits{MaxBodyBytes: maxInputBytes + bodySlack}, // the cluster's own limit is not known yet
	})
	if err != nil {
		return nil, err
	}
	c := client.Config{Network: network, Addrs: a.addrs, Timeout: a.timeout, Direct: a.direct}
	for _, f := range set {
		f(&c)
	}
	return client.Open(ctx, c)
}

// clientName is what nodes show of this process.
func clientName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "?"
	}
	return fmt.Sprintf("dramnode@%.64s:%d", host, os.Getpid())
}
