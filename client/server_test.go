package client

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/ring"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/transport/memnet"
	"github.com/dramnode/dramnode/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testPartitions = 200 // so that a table is a long body

// A testCluster is a few nodes that speak the protocol over maps that all of them share.
type testCluster struct {
	t     testing.TB
	world *memnet.World
	nodes []*testNode
	stop  context.CancelFunc
	wg    sync.WaitGroup

	mu         sync.Mutex
	values     map[string]testValue
	generation dramnode.Generation
	records    map[testID]*testRecord // of writes, while the table says that there are replicas
}

// A testID is what a write is remembered by; each partition remembers its part of a delete-range.
type testID struct {
	client, counter uint64
	partition       int // of a delete-range
}

type testRecord struct {
	reply wire.Header
	count int // how often it was asked for
}

type testValue struct {
	bytes      []byte
	generation dramnode.Generation
	ttlMillis  uint64
	crc        uint32
}

type testNode struct {
	cluster     *testCluster
	index       int
	addr        string
	incarnation uint64
	network     *memnet.Network
	pool        *pool
	table       atomic.Pointer[control.Table]
	hook        atomic.Pointer[func(r *transport.Request, h wire.Header) bool] // true: it has answered

	mu     sync.Mutex
	placed map[uint64]*Buffer
	cookie uint64

	served    atomic.Int64 // requests for keys that came with a fence or hit the owner
	forwarded atomic.Int64
}

func newTestCluster(t testing.TB, nodes int) *testCluster {
	ctx, stop := context.WithCancel(context.Background())
	c := &testCluster{t: t, world: memnet.New(1), stop: stop, values: map[string]testValue{}, records: map[testID]*testRecord{}}
	for i := range nodes {
		c.addNode(ctx, i, uint64(i)+100)
	}
	c.install(c.newTable(1, func(p int) int { return p % nodes }))
	t.Cleanup(c.close)
	return c
}

func (c *testCluster) close() {
	c.stop()
	c.wg.Wait()
	for _, n := range c.nodes {
		n.pool.close()
	}
}

func (c *testCluster) addNode(ctx context.Context, i int, incarnation uint64) *testNode {
	n := &testNode{cluster: c, index: i, addr: fmt.Sprintf("10.0.0.%d:12345", i+1), incarnation: incarnation, placed: map[uint64]*Buffer{}}
	var err error
	n.network, err = c.world.Network(memnet.Config{
		Identity: transport.Identity{Role: transport.RoleNode, Name: fmt.Sprintf("n%d", i), Incarnation: n.incarnation, Cluster: "test"},
		Addr:     n.addr,
		Handler:  n,
		Timing:   testTiming,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	if n.pool, err = newPool(n.network, 8<<20); err != nil {
		c.t.Fatal(err)
	}
	c.nodes = append(c.nodes, n)
	c.wg.Go(func() { _ = n.network.Run(ctx) }) // memnet.ErrKilled in tests that kill
	return n
}

var testTiming = transport.Timing{RetryMin: 5 * time.Millisecond, RetryMax: 20 * time.Millisecond}

// newTable makes all nodes members; owner says who owns a partition.
func (c *testCluster) newTable(version uint64, owner func(p int) int) *control.Table {
	t := &control.Table{ClusterID: 7, Version: version, Replicas: 1, MaxValue: 8 << 20, Settings: ring.Config{Partitions: testPartitions}}
	for i, n := range c.nodes {
		t.Members = append(t.Members, control.Member{Name: fmt.Sprintf("n%d", i), Incarnation: n.incarnation, Addr: n.addr, JoinSeq: uint64(i + 1)})
	}
	for p := range testPartitions {
		t.Rows = append(t.Rows, control.Row{Epoch: uint32(version), Owner: uint16(owner(p)), MoveTo: control.None, Backups: control.NoBackups})
	}
	return t
}

func (c *testCluster) install(t *control.Table) {
	if err := t.Validate(); err != nil {
		c.t.Fatal(err)
	}
	for _, n := range c.nodes {
		n.table.Store(t)
	}
}

func (c *testCluster) network(cluster string) *memnet.Network {
	n, err := c.world.Network(memnet.Config{
		Identity: transport.Identity{Role: transport.RoleClient, Name: c.t.Name(), Incarnation: 1, Cluster: cluster},
		Timing:   testTiming,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return n
}

// client opens a client whose seed is node 0; set changes its settings.
func (c *testCluster) client(set func(*Config)) *Client {
	c.t.Helper()
	cfg := Config{Network: c.network("test"), Addrs: []string{c.nodes[0].addr}, MemoryBytes: 8 << 20}
	if set != nil {
		set(&cfg)
	}
	cl, err := Open(context.Background(), cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		if err := cl.Close(); err != nil {
			c.t.Error(err)
		}
		cl.pool.mu.Lock()
		defer cl.pool.mu.Unlock()
		if cl.pool.lent != 0 {
			c.t.Errorf("%d buffers did not come back", cl.pool.lent)
		}
	})
	return cl
}

// setHook makes f see every request of n first.
func (n *testNode) setHook(f func(r *transport.Request, h wire.Header) bool) { n.hook.Store(&f) }

func (n *testNode) Place(r *transport.Request, size int) ([]byte, error) {
	b, err := n.pool.alloc(size)
	if err != nil {
		n.reply(r, &wire.Header{Kind: wire.KindPut, Status: wire.StatusNoMemory}, nil)
		return nil, transport.ErrRefused
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cookie++
	r.Cookie = n.cookie
	n.placed[n.cookie] = b
	return b.bytes, nil
}

func (n *testNode) Serve(r *transport.Request) {
	if r.Placed {
		n.mu.Lock()
		b := n.placed[r.Cookie]
		delete(n.placed, r.Cookie)
		n.mu.Unlock()
		defer b.Release()
	}
	if r.Err != nil {
		return
	}
	h, err := wire.ParseHeader(r.Header)
	if err != nil {
		panic(err)
	}
	if hook := n.hook.Load(); hook != nil && (*hook)(r, h) {
		return
	}
	switch h.Kind {
	case wire.KindTable:
		n.reply(r, &wire.Header{Kind: h.Kind}, n.table.Load().Append(nil))
	case wire.KindInfo:
		n.reply(r, &wire.Header{Kind: h.Kind}, fmt.Appendf(nil, `{"name":"n%d"}`, n.index))
	case wire.KindList, wire.KindDeleteRange:
		n.serveRange(r, h)
	default:
		n.serveKey(r, h)
	}
}

// reply completes h and sends it with a copy of body.
func (n *testNode) reply(r *transport.Request, h *wire.Header, body []byte) {
	header, b := n.frame(h, body)
	r.Reply(header, b)
}

func (n *testNode) frame(h *wire.Header, body []byte) ([]byte, transport.Body) {
	h.Flags = wire.FlagReply
	h.TableVersion = n.table.Load().Version
	b := transport.Body{Bytes: bytes.Clone(body)}
	if len(body) > transport.CopyBytes {
		buf, err := n.pool.alloc(len(body))
		if err != nil {
			panic(err)
		}
		copy(buf.bytes, body)
		b = transport.Body{Bytes: buf.bytes, Releaser: releaseBuffer{buf}}
	}
	return wire.AppendHeader(nil, h), b
}

type releaseBuffer struct{ b *Buffer }

func (r releaseBuffer) Release(uint64) { r.b.Release() }

func (n *testNode) status(r *transport.Request, kind wire.Kind, s wire.Status, text string) {
	n.reply(r, &wire.Header{Kind: kind, Status: s}, []byte(text))
}

func (n *testNode) notOwner(r *transport.Request, kind wire.Kind, row control.Row) {
	n.reply(r, &wire.Header{Kind: kind, Status: wire.StatusNotOwner}, control.AppendRow(nil, row))
}

func (n *testNode) serveKey(r *transport.Request, h wire.Header) {
	t := n.table.Load()
	m, err := ring.New(t.Settings)
	if err != nil {
		panic(err)
	}
	row := t.Rows[m.Partition(h.Key)]
	mine := int(row.Owner) == n.index || h.Kind == wire.KindGet && row.IsBackup(uint16(n.index))
	if h.Flags&wire.FlagFence != 0 && (!mine && h.Flags&wire.FlagRelay == 0 || h.Epoch != row.Epoch) {
		n.notOwner(r, h.Kind, row)
		return
	}
	if mine {
		n.served.Add(1)
	} else {
		n.forwarded.Add(1)
	}
	reply, body := n.cluster.remember(t, h, r.Body)
	n.reply(r, &reply, body)
}

// replicate makes each partition have two backups, in epoch version, after losses.
func (c *testCluster) replicate(version uint64, losses uint32) {
	n := len(c.nodes)
	t := c.newTable(version, func(p int) int { return (p + int(version) - 1) % n })
	t.Replicas = 3
	for p := range t.Rows {
		row := &t.Rows[p]
		row.Losses = losses
		for i := range min(n-1, 2) {
			row.Backups[i] = uint16((int(row.Owner) + i + 1) % n)
		}
	}
	c.install(t)
}

// remember is apply as replicas do it: once for each write.
func (c *testCluster) remember(t *control.Table, h wire.Header, body []byte) (wire.Header, []byte) {
	e, err := wire.ParseWriteExt(h.Ext)
	if h.Kind == wire.KindGet || err != nil {
		return c.apply(h, body)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	id := testID{client: e.Client, counter: e.Counter}
	if r := c.records[id]; r != nil {
		r.count++
		return r.reply, nil
	}
	reply, _ := c.applyLocked(h, body)
	if reply.Status == wire.StatusOK {
		c.records[id] = &testRecord{reply: reply, count: 1}
	}
	return reply, nil
}

// apply is the whole store.
func (c *testCluster) apply(h wire.Header, body []byte) (wire.Header, []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.applyLocked(h, body)
}

func (c *testCluster) applyLocked(h wire.Header, body []byte) (wire.Header, []byte) {
	v, exists := c.values[string(h.Key)]
	fail := func(s wire.Status) (wire.Header, []byte) {
		return wire.Header{Kind: h.Kind, Status: s, Ext: wire.AppendReplyExt(nil, wire.ReplyExt{Generation: v.generation})}, nil
	}
	if h.Kind == wire.KindGet {
		e, err := wire.ParseReadExt(h.Ext)
		switch {
		case err != nil:
			return fail(wire.StatusInvalid)
		case !exists:
			return fail(wire.StatusNotFound)
		case h.Flags&wire.FlagIfMatch != 0 && e.IfGeneration != v.generation, h.Flags&wire.FlagIfNotMatch != 0 && e.IfNotGeneration == v.generation:
			return fail(wire.StatusGenerationMismatch)
		}
		part := v.bytes
		if h.Flags&wire.FlagRange != 0 {
			start, end := e.Start, e.End
			if h.Flags&wire.FlagSuffix != 0 {
				start, end = int64(len(part))-e.Start, int64(len(part))
			}
			if end == -1 {
				end = int64(len(part))
			}
			if h.Flags&wire.FlagClip != 0 {
				end = min(end, int64(len(part)))
				start = min(max(0, start), end)
			}
			if start < 0 || end > int64(len(part)) {
				return fail(wire.StatusOutOfRange)
			}
			part = part[start:end]
		}
		return wire.Header{Kind: h.Kind, CRC: v.crc, Ext: v.ext()}, part
	}
	e, err := wire.ParseWriteExt(h.Ext)
	switch {
	case err != nil || e.Client == 0 || e.Counter == 0 || e.FirstUnacked == 0 || e.FirstUnacked > e.Counter:
		return fail(wire.StatusInvalid)
	case h.Flags&wire.FlagIfMatch != 0 && e.IfGeneration != v.generation:
		return fail(wire.StatusGenerationMismatch)
	case h.Kind == wire.KindTouch && !exists:
		return fail(wire.StatusNotFound)
	case h.Kind == wire.KindPut && h.CRC != wire.Checksum(body):
		return fail(wire.StatusCorrupt)
	}
	c.generation++
	switch h.Kind {
	case wire.KindDelete:
		delete(c.values, string(h.Key))
		return wire.Header{Kind: h.Kind}, nil
	case wire.KindTouch:
		v.generation, v.ttlMillis = c.generation, e.TTLMillis
	case wire.KindPut:
		v = testValue{bytes: bytes.Clone(body), generation: c.generation, ttlMillis: e.TTLMillis, crc: h.CRC}
	}
	c.values[string(h.Key)] = v
	return wire.Header{Kind: h.Kind, Ext: v.ext()}, nil
}

func (v testValue) ext() []byte {
	return wire.AppendReplyExt(nil, wire.ReplyExt{Generation: v.generation, Size: uint64(len(v.bytes)), TTLMillis: v.ttlMillis})
}

func (n *testNode) serveRange(r *transport.Request, h wire.Header) {
	q, err := wire.ParseListRequest(r.Body, nil)
	if err != nil {
		n.status(r, h.Kind, wire.StatusInvalid, err.Error())
		return
	}
	t := n.table.Load()
	set := bitmap(q.Partitions)
	for p, row := range t.Rows {
		if set.has(p) && (int(row.Owner) != n.index || h.Flags&wire.FlagFence != 0 && h.Epoch != row.Epoch) {
			n.notOwner(r, h.Kind, row)
			return
		}
	}
	m, err := ring.New(t.Settings)
	if err != nil {
		panic(err)
	}
	c := n.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	var page wire.ListReply
	for key, v := range c.values {
		k := []byte(key)
		if set.has(int(m.Partition(k))) && bytes.Compare(k, q.Start) >= 0 && (len(q.End) == 0 || bytes.Compare(k, q.End) < 0) && bytes.Compare(k, q.After) > 0 {
			page.Entries = append(page.Entries, wire.ListEntry{Key: k, Generation: v.generation, Size: uint64(len(v.bytes))})
		}
	}
	if h.Kind == wire.KindDeleteRange {
		for _, e := range page.Entries {
			delete(c.values, string(e.Key))
		}
		n.reply(r, &wire.Header{Kind: h.Kind, Ext: wire.AppendReplyExt(nil, wire.ReplyExt{Size: uint64(len(page.Entries))})}, nil)
		return
	}
	slices.SortFunc(page.Entries, func(a, b wire.ListEntry) int { return bytes.Compare(a.Key, b.Key) })
	if len(page.Entries) > int(q.Limit) {
		page.Entries, page.More = page.Entries[:q.Limit], true
	}
	n.reply(r, &wire.Header{Kind: h.Kind}, wire.AppendListReply(nil, &page))
}
