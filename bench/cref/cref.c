// cref is the yardstick: the least that a request and its reply can cost over UCX active messages.
//
// One process serves, one asks; each polls its one worker and does nothing else. A get is a small
// request that is answered with a value, a put a value that is answered with a small reply. There is no
// store, no checksum, no routing and one message per operation, so it is a limit for a store that sends
// each operation alone, and can be beaten by one that sends several together.
//
//	cref serve HOST PORT [options]      until its client leaves
//	cref relay HOST PORT -r PORT        the same, and asks the server at the other port
//	cref get|put HOST PORT [options]    prints one line of JSON
//
//	-s BYTES    of a value             -w N       operations under way
//	-t SECONDS  to measure             -u SECONDS to warm up before
//	-e BYTES    send values shorter than this eagerly and others by rendezvous; 0: as UCX thinks best
//	-m BYTES    of memory for values (all sides alike)
//	-k N        serve: values to answer gets with, in turn; a store has more of them than requests under way
//	-y          yield the processor when there is nothing to do: for more processes than cores
//
// UCX_TLS in the environment chooses the transport.
#include <arpa/inet.h>
#include <getopt.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <ucp/api/ucp.h>

enum { AM_REQUEST = 1, AM_REPLY = 2 };
enum { OP_GET, OP_PUT };
enum { MAX_SLOTS = 1024 };

typedef struct {
	uint32_t slot; // of the client; the server keeps what belongs to the request under the same number
	uint32_t op;
	uint64_t value_bytes;
} header_t;

// A slot is one operation under way, on either side. Header and value must stay until UCX has sent them.
typedef struct {
	header_t header;
	ucp_ep_h ep;      // server, relay: where the reply goes
	uint64_t started; // client: ns
} slot_t;

static ucp_context_h context;
static ucp_worker_h worker;
static char *arena;
static size_t arena_bytes = 256u << 20;
static ucp_mem_h arena_handle;
static slot_t slots[MAX_SLOTS];
static size_t eager_below;
static int yields;
static unsigned stored, next_stored; // serve: values in the arena behind the slots; 0: a slot's own
static int peer_gone;
static ucp_ep_h upstream; // relay: the server

static void die(const char *what, ucs_status_t status)
{
	fprintf(stderr, "cref: %s: %s\n", what, ucs_status_string(status));
	exit(1);
}

static void check(const char *what, ucs_status_t status)
{
	if (status != UCS_OK)
		die(what, status);
}

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void progress(void)
{
	if (!ucp_worker_progress(worker) && yields)
		sched_yield();
}

static void open_worker(void)
{
	ucp_config_t *config;
	check("ucp_config_read", ucp_config_read(NULL, NULL, &config));
	ucp_params_t params = {.field_mask = UCP_PARAM_FIELD_FEATURES, .features = UCP_FEATURE_AM};
	check("ucp_init", ucp_init(&params, config, &context));
	ucp_config_release(config);
	ucp_worker_params_t wp = {.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE, .thread_mode = UCS_THREAD_MODE_SINGLE};
	check("ucp_worker_create", ucp_worker_create(context, &wp, &worker));

	arena = mmap(NULL, arena_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (arena == MAP_FAILED)
		die("mmap", UCS_ERR_NO_MEMORY);
	memset(arena, 1, arena_bytes);
	ucp_mem_map_params_t mp = {
		.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH,
		.address = arena,
		.length = arena_bytes,
	};
	check("ucp_mem_map", ucp_mem_map(context, &mp, &arena_handle));
}

// value is where the bytes of a slot lie. Both sides allow only what fits.
static char *value(const header_t *h) { return arena + h->slot * h->value_bytes; }

static int fits(const header_t *h)
{
	return h->slot < MAX_SLOTS && h->value_bytes <= arena_bytes / (h->slot + 1);
}

static void on_sent(void *request, ucs_status_t status, void *arg)
{
	(void)arg;
	if (status != UCS_OK && !peer_gone)
		die("send", status);
	ucp_request_free(request);
}

static void send_slot(ucp_ep_h ep, unsigned id, slot_t *s, char *from, size_t bytes, uint32_t flags)
{
	if (bytes && eager_below)
		flags |= bytes < eager_below ? UCP_AM_SEND_FLAG_EAGER : UCP_AM_SEND_FLAG_RNDV;
	ucp_request_param_t p = {
		.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_MEMH,
		.cb.send = on_sent,
		.flags = flags,
		.memh = arena_handle,
	};
	void *r = ucp_am_send_nbx(ep, id, &s->header, sizeof s->header, from, bytes, &p);
	if (UCS_PTR_IS_ERR(r) && !peer_gone)
		die("ucp_am_send_nbx", UCS_PTR_STATUS(r));
}

// take brings the bytes of a message into the slot's memory, at once or by rendezvous, then calls done.
static void take(void *data, size_t bytes, const ucp_am_recv_param_t *info, slot_t *s, void (*done)(slot_t *),
		 ucp_am_recv_data_nbx_callback_t later)
{
	if (!(info->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV)) {
		memcpy(value(&s->header), data, bytes);
		done(s);
		return;
	}
	ucp_request_param_t p = {
		.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMH |
				UCP_OP_ATTR_FLAG_NO_IMM_CMPL,
		.cb.recv_am = later,
		.user_data = s,
		.memh = arena_handle,
	};
	void *r = ucp_am_recv_data_nbx(worker, data, value(&s->header), bytes, &p);
	if (UCS_PTR_IS_ERR(r))
		die("ucp_am_recv_data_nbx", UCS_PTR_STATUS(r));
}

static void on_error(void *arg, ucp_ep_h ep, ucs_status_t status)
{
	(void)arg, (void)ep, (void)status;
	peer_gone = 1;
}

static void set_handler(unsigned id, ucp_am_recv_callback_t cb)
{
	ucp_am_handler_param_t p = {
		.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB,
		.id = id,
		.cb = cb,
	};
	check("ucp_worker_set_am_recv_handler", ucp_worker_set_am_recv_handler(worker, &p));
}

static ucp_ep_params_t ep_params(void)
{
	return (ucp_ep_params_t){
		.field_mask = UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER,
		.err_mode = UCP_ERR_HANDLING_MODE_PEER,
		.err_handler.cb = on_error,
	};
}

static struct sockaddr_in address(const char *host, const char *port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
	if (inet_pton(AF_INET, host, &a.sin_addr) != 1) {
		fprintf(stderr, "cref: %s is no IPv4 address\n", host);
		exit(2);
	}
	return a;
}

static ucp_ep_h dial(const char *host, const char *port)
{
	struct sockaddr_in a = address(host, port);
	ucp_ep_params_t p = ep_params();
	p.field_mask |= UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR;
	p.flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER;
	p.sockaddr.addr = (struct sockaddr *)&a;
	p.sockaddr.addrlen = sizeof a;
	ucp_ep_h ep;
	check("ucp_ep_create", ucp_ep_create(worker, &p, &ep));
	return ep;
}

// ---- the side that serves, and the one between

static void answer(slot_t *s)
{
	char *from = value(&s->header);
	if (stored) {
		size_t fit = arena_bytes / (s->header.value_bytes ? s->header.value_bytes : 1);
		from = arena + next_stored++ % (stored < fit ? stored : fit) * s->header.value_bytes;
	}
	send_slot(s->ep, AM_REPLY, s, from, s->header.op == OP_GET ? s->header.value_bytes : 0, 0);
}

// accept answers a request that is here, or asks the server in the client's place.
static void accept_request(slot_t *s)
{
	if (upstream)
		send_slot(upstream, AM_REQUEST, s, value(&s->header), s->header.op == OP_PUT ? s->header.value_bytes : 0, UCP_AM_SEND_FLAG_REPLY);
	else
		answer(s);
}

static void on_request_body(void *request, ucs_status_t status, size_t bytes, void *s)
{
	(void)bytes;
	if (status == UCS_OK)
		accept_request(s);
	else if (!peer_gone)
		die("receive", status);
	ucp_request_free(request);
}

static ucs_status_t on_request(void *arg, const void *header, size_t header_bytes, void *data, size_t bytes,
			       const ucp_am_recv_param_t *info)
{
	(void)arg;
	header_t h;
	if (header_bytes != sizeof h)
		die("a request's header", UCS_ERR_INVALID_PARAM);
	memcpy(&h, header, sizeof h);
	if (!fits(&h) || bytes != (h.op == OP_PUT ? h.value_bytes : 0))
		die("a request", UCS_ERR_INVALID_PARAM);
	slot_t *s = &slots[h.slot];
	s->header = h;
	s->ep = info->reply_ep;
	if (bytes)
		take(data, bytes, info, s, accept_request, on_request_body);
	else
		accept_request(s);
	return UCS_OK;
}

static void on_connection(ucp_conn_request_h request, void *arg)
{
	ucp_conn_request_h *waiting = arg;
	*waiting = request;
}

static ucs_status_t on_reply(void *arg, const void *header, size_t header_bytes, void *data, size_t bytes,
			     const ucp_am_recv_param_t *info);

// serve ends when its peer has left: of a relay, the client or the server.
static void serve(const char *host, const char *port, const char *server_port)
{
	set_handler(AM_REQUEST, on_request);
	if (server_port) {
		set_handler(AM_REPLY, on_reply);
		upstream = dial(host, server_port);
	}
	struct sockaddr_in a = address(host, port);
	ucp_conn_request_h waiting = NULL;
	ucp_listener_params_t lp = {
		.field_mask = UCP_LISTENER_PARAM_FIELD_SOCK_ADDR | UCP_LISTENER_PARAM_FIELD_CONN_HANDLER,
		.sockaddr = {(struct sockaddr *)&a, sizeof a},
		.conn_handler = {on_connection, &waiting},
	};
	ucp_listener_h listener;
	check("ucp_listener_create", ucp_listener_create(worker, &lp, &listener));
	puts("ready");
	fflush(stdout);
	while (!peer_gone) {
		progress();
		if (!waiting)
			continue;
		ucp_ep_params_t ep = ep_params();
		ep.field_mask |= UCP_EP_PARAM_FIELD_CONN_REQUEST;
		ep.conn_request = waiting;
		ucp_ep_h client;
		check("ucp_ep_create", ucp_ep_create(worker, &ep, &client));
		waiting = NULL;
	}
}

// ---- the side that asks

// Latencies are counted in buckets of 1/64 of a power of two.
enum { SUB_BITS = 6, BUCKETS = 64 << SUB_BITS };

static struct {
	unsigned idle[MAX_SLOTS];
	unsigned idles;
	uint64_t now, done, bytes;
	uint64_t latencies[BUCKETS];
	uint64_t max;
} asker;

static unsigned bucket(uint64_t ns)
{
	if (ns < 1u << SUB_BITS)
		return (unsigned)ns;
	unsigned shift = 63 - (unsigned)__builtin_clzll(ns) - SUB_BITS;
	return ((shift + 1) << SUB_BITS) + (unsigned)(ns >> shift & ((1u << SUB_BITS) - 1));
}

static double bucket_us(unsigned b)
{
	unsigned shift = b >> SUB_BITS;
	uint64_t low = b & ((1u << SUB_BITS) - 1);
	return (shift ? (double)((low | 1u << SUB_BITS) << (shift - 1)) : (double)low) / 1e3;
}

static double quantile_us(double q)
{
	uint64_t want = (uint64_t)(q * (double)asker.done), seen = 0;
	for (unsigned b = 0; b < BUCKETS; b++)
		if ((seen += asker.latencies[b]) > want)
			return bucket_us(b);
	return (double)asker.max / 1e3;
}

static void finish(slot_t *s)
{
	asker.now = now_ns();
	uint64_t took = asker.now - s->started;
	asker.latencies[bucket(took)]++;
	if (took > asker.max)
		asker.max = took;
	asker.done++;
	asker.bytes += s->header.value_bytes;
	asker.idle[asker.idles++] = s->header.slot;
}

// complete ends an operation, or hands its reply on.
static void complete(slot_t *s)
{
	if (upstream)
		answer(s);
	else
		finish(s);
}

static void on_reply_body(void *request, ucs_status_t status, size_t bytes, void *s)
{
	(void)bytes;
	check("receive", status);
	complete(s);
	ucp_request_free(request);
}

static ucs_status_t on_reply(void *arg, const void *header, size_t header_bytes, void *data, size_t bytes,
			     const ucp_am_recv_param_t *info)
{
	(void)arg;
	header_t h;
	if (header_bytes != sizeof h)
		die("a reply's header", UCS_ERR_INVALID_PARAM);
	memcpy(&h, header, sizeof h);
	if (!fits(&h) || bytes > h.value_bytes)
		die("a reply", UCS_ERR_INVALID_PARAM);
	if (bytes)
		take(data, bytes, info, &slots[h.slot], complete, on_reply_body);
	else
		complete(&slots[h.slot]);
	return UCS_OK;
}

static double cpu_seconds(void)
{
	struct rusage u;
	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + 1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static void close_ep(ucp_ep_h ep)
{
	ucp_request_param_t p = {.op_attr_mask = 0};
	void *r = ucp_ep_close_nbx(ep, &p);
	if (!UCS_PTR_IS_PTR(r))
		return;
	uint64_t end = now_ns() + 1000000000u;
	while (ucp_request_check_status(r) == UCS_INPROGRESS && now_ns() < end)
		ucp_worker_progress(worker);
	ucp_request_free(r);
}

enum { PATIENCE_S = 20 };

// run_until asks until then, and until one operation has ended: the other side may not have run yet.
static void run_until(ucp_ep_h ep, uint64_t end, uint32_t op, size_t value_bytes)
{
	uint64_t give_up = (end ? end : now_ns()) + PATIENCE_S * 1000000000ull;
	while (((asker.now = now_ns()) < end || (!asker.done && asker.now < give_up)) && !peer_gone) {
		while (asker.idles) {
			slot_t *s = &slots[asker.idle[--asker.idles]];
			s->header.op = op;
			s->header.value_bytes = value_bytes;
			s->started = asker.now;
			send_slot(ep, AM_REQUEST, s, value(&s->header), op == OP_PUT ? value_bytes : 0, UCP_AM_SEND_FLAG_REPLY);
		}
		progress();
	}
	if (peer_gone)
		die("the server", UCS_ERR_CONNECTION_RESET);
}

static void ask(const char *host, const char *port, uint32_t op, size_t value_bytes, unsigned window, double warm, double secs)
{
	set_handler(AM_REPLY, on_reply);
	ucp_ep_h ep = dial(host, port);
	for (unsigned i = 0; i < window; i++) {
		slots[i].header = (header_t){.slot = i, .value_bytes = value_bytes};
		asker.idle[asker.idles++] = i;
	}

	run_until(ep, 0, op, value_bytes); // the connection is there
	uint64_t start = now_ns() + (uint64_t)(warm * 1e9);
	run_until(ep, start, op, value_bytes);
	asker.done = asker.bytes = asker.max = 0;
	memset(asker.latencies, 0, sizeof asker.latencies);
	double cpu = cpu_seconds();
	start = now_ns();
	run_until(ep, start + (uint64_t)(secs * 1e9), op, value_bytes);
	double took = (double)(asker.now - start) / 1e9;
	cpu = cpu_seconds() - cpu;
	if (!asker.done)
		die("no operation ended", UCS_ERR_TIMED_OUT);
	printf("{\"ops\": %llu, \"seconds\": %.6f, \"ops_per_s\": %.1f, \"gb_per_s\": %.6f, \"p50_us\": %.3f, "
	       "\"p99_us\": %.3f, \"p99_9_us\": %.3f, \"max_us\": %.3f, \"client_cpu_us_per_op\": %.4f}\n",
	       (unsigned long long)asker.done, took, (double)asker.done / took, (double)asker.bytes / took / 1e9,
	       quantile_us(0.5), quantile_us(0.99), quantile_us(0.999), (double)asker.max / 1e3,
	       cpu / (double)asker.done * 1e6);
	fflush(stdout);
	uint64_t end = now_ns() + 2000000000u; // what is under way ends before the endpoint does
	while (asker.idles < window && now_ns() < end)
		progress();
	close_ep(ep);
}

int main(int argc, char **argv)
{
	size_t value_bytes = 64;
	unsigned window = 1;
	double warm = 0.2, secs = 1;
	const char *server_port = NULL;
	for (int o; (o = getopt(argc, argv, "s:w:t:u:e:m:r:k:y")) != -1;) {
		switch (o) {
		case 'r': server_port = optarg; break;
		case 'y': yields = 1; break;
		case 'k': stored = (unsigned)atoi(optarg); break;
		case 's': value_bytes = strtoull(optarg, NULL, 0); break;
		case 'w': window = (unsigned)atoi(optarg); break;
		case 't': secs = atof(optarg); break;
		case 'u': warm = atof(optarg); break;
		case 'e': eager_below = strtoull(optarg, NULL, 0); break;
		case 'm': arena_bytes = strtoull(optarg, NULL, 0); break;
		default: return 2;
		}
	}
	if (argc - optind != 3 || window < 1 || window > MAX_SLOTS || value_bytes > arena_bytes / window) {
		fprintf(stderr, "usage: cref serve|relay|get|put HOST PORT [-r PORT] [-s BYTES] [-w N] [-t SECONDS] [-u SECONDS] [-e BYTES] [-m BYTES] [-k N] [-y]\n");
		return 2;
	}
	const char *what = argv[optind], *host = argv[optind + 1], *port = argv[optind + 2];
	open_worker();
	if (!strcmp(what, "serve") || (!strcmp(what, "relay") && server_port))
		serve(host, port, server_port);
	else if (!strcmp(what, "get") || !strcmp(what, "put"))
		ask(host, port, strcmp(what, "get") ? OP_PUT : OP_GET, value_bytes, window, warm, secs);
	else
		return 2;
	return 0;
}
