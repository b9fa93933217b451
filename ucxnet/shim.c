#define _GNU_SOURCE
#include "shim.h"

#include <dlfcn.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/shm.h>
#include <unistd.h>
#include <ucp/api/ucp.h>

// Every function of UCX that is used. libucp is opened at run time, so that the variables which it
// reads while loading can be set first, and so that a machine without UCX gets a clear message.
#define DN_UCX(X)                   \
    X(ucp_get_version)              \
    X(ucp_config_read)              \
    X(ucp_config_release)           \
    X(ucp_init_version)             \
    X(ucp_cleanup)                  \
    X(ucp_worker_create)            \
    X(ucp_worker_destroy)           \
    X(ucp_worker_query)             \
    X(ucp_worker_get_efd)           \
    X(ucp_worker_arm)               \
    X(ucp_worker_progress)          \
    X(ucp_worker_set_am_recv_handler) \
    X(ucp_listener_create)          \
    X(ucp_listener_destroy)         \
    X(ucp_listener_query)           \
    X(ucp_listener_reject)          \
    X(ucp_conn_request_query)       \
    X(ucp_ep_create)                \
    X(ucp_ep_close_nbx)             \
    X(ucp_ep_print_info)            \
    X(ucp_am_send_nbx)              \
    X(ucp_am_recv_data_nbx)         \
    X(ucp_am_data_release)          \
    X(ucp_request_free)             \
    X(ucp_mem_map)                  \
    X(ucp_mem_unmap)                \
    X(ucs_status_string)

static struct {
#define X(f) __typeof__(&f) f;
    DN_UCX(X)
#undef X
} ucx;

struct dn_context {
    ucp_context_h ucp;
};

typedef struct {
    dn_rail pub; // first: a dn_rail * is a rail *
    ucp_worker_h worker;
    ucp_listener_h listener;
    uint32_t cap;
    int shm;
} rail;

// UCX calls back only inside the functions below, on the calling thread, for the rail that was given.
static __thread rail *here;

enum { SOFT_EVENTS = 512, BUSY_ROUNDS = 64, IDLE_ROUNDS = 16, SETTLE_ROUNDS = 100000 };

int dn_load(char *err, size_t err_bytes)
{
    static const char *const names[] = {
#define X(f) #f,
        DN_UCX(X)
#undef X
    };
    void *lib = dlopen("libucp.so.0", RTLD_NOW | RTLD_GLOBAL);
    if (!lib) {
        snprintf(err, err_bytes, "%s", dlerror());
        return -1;
    }
    void **table = (void **)&ucx;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!(table[i] = dlsym(lib, names[i]))) {
            snprintf(err, err_bytes, "libucp.so.0 has no %s", names[i]);
            return -1;
        }
    return 0;
}

void dn_version(unsigned *major, unsigned *minor, unsigned *release)
{
    ucx.ucp_get_version(major, minor, release);
}

const char *dn_status(int status) { return ucx.ucs_status_string((ucs_status_t)status); }

static dn_event *push(int kind, uint64_t token, ucs_status_t status)
{
    rail *r = here;
    if (r->pub.count == r->cap) {
        dn_event *more = realloc(r->pub.events, 2 * r->cap * sizeof *more);
        if (!more) {
            r->pub.lost++;
            return NULL;
        }
        r->pub.events = more;
        r->cap *= 2;
    }
    dn_event *e = &r->pub.events[r->pub.count++];
    *e = (dn_event){.kind = (uint16_t)kind, .token = token, .status = status};
    return e;
}

static void *copy_of(const void *p, size_t n)
{
    void *c = malloc(n);
    if (c)
        memcpy(c, p, n);
    else
        here->pub.lost++;
    return c;
}

static void on_send(void *request, ucs_status_t status, void *token)
{
    here->pub.outstanding--;
    push(DN_EV_SENT, (uintptr_t)token, status);
    ucx.ucp_request_free(request);
}

static void on_recv(void *request, ucs_status_t status, size_t bytes, void *token)
{
    (void)bytes; // the destination has exactly the announced length
    here->pub.outstanding--;
    push(DN_EV_RECEIVED, (uintptr_t)token, status);
    ucx.ucp_request_free(request);
}

static void on_closed(void *request, ucs_status_t status, void *token)
{
    push(DN_EV_CLOSED, (uintptr_t)token, status);
    ucx.ucp_request_free(request);
}

static void on_error(void *token, ucp_ep_h ep, ucs_status_t status)
{
    (void)ep;
    push(DN_EV_ERROR, (uintptr_t)token, status);
}

// The header is not documented to outlive the callback, so it is copied; the data is kept.
static ucs_status_t on_am(void *am, const void *head, size_t head_len, void *data, size_t len,
                          const ucp_am_recv_param_t *p)
{
    dn_event *e = push(DN_EV_AM, 0, UCS_OK);
    if (!e)
        return UCS_OK;
    e->am = (uint16_t)(uintptr_t)am;
    if (p->recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP)
        e->ep = (uintptr_t)p->reply_ep;
    if (head_len) {
        if (!(e->head = (uintptr_t)copy_of(head, head_len))) {
            here->pub.count--;
            return UCS_OK;
        }
        e->head_len = (uint32_t)head_len;
    }
    e->len = len;
    if (p->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) {
        e->data = (uintptr_t)data;
        e->flags = DN_RNDV_DESC;
        return UCS_INPROGRESS;
    }
    if (p->recv_attr & UCP_AM_RECV_ATTR_FLAG_DATA) {
        e->data = (uintptr_t)data;
        e->flags = DN_KEPT;
        return UCS_INPROGRESS;
    }
    if (len && !(e->data = (uintptr_t)copy_of(data, len)))
        e->len = 0; // lost is counted, and the parser refuses the stump
    e->flags = DN_COPIED;
    return UCS_OK;
}

static void on_conn(ucp_conn_request_h conn, void *arg)
{
    (void)arg;
    dn_event *e = push(DN_EV_CONN, 0, UCS_OK);
    if (!e) {
        ucx.ucp_listener_reject(here->listener, conn);
        return;
    }
    e->ep = (uintptr_t)conn;
    e->flags = DN_COPIED;
    ucp_conn_request_attr_t a = {.field_mask = UCP_CONN_REQUEST_ATTR_FIELD_CLIENT_ADDR};
    if (ucx.ucp_conn_request_query(conn, &a) == UCS_OK) {
        e->len = sizeof(struct sockaddr_in6);
        if (!(e->data = (uintptr_t)copy_of(&a.client_address, e->len)))
            e->len = 0;
    }
}

static void fail(char *err, size_t err_bytes, const char *call, ucs_status_t status)
{
    snprintf(err, err_bytes, "%s: %s", call, ucx.ucs_status_string(status));
}

static ucs_status_t set_handler(rail *r, unsigned id)
{
    ucp_am_handler_param_t p = {
        .field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB |
                      UCP_AM_HANDLER_PARAM_FIELD_FLAGS | UCP_AM_HANDLER_PARAM_FIELD_ARG,
        .id = id,
        .flags = UCP_AM_FLAG_WHOLE_MSG | UCP_AM_FLAG_PERSISTENT_DATA,
        .cb = on_am,
        .arg = (void *)(uintptr_t)id,
    };
    return ucx.ucp_worker_set_am_recv_handler(r->worker, &p);
}

static ucs_status_t open_context(ucp_context_h *context)
{
    ucp_config_t *config;
    ucs_status_t s = ucx.ucp_config_read(NULL, NULL, &config);
    if (s != UCS_OK)
        return s;
    ucp_params_t p = {
        .field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_MT_WORKERS_SHARED,
        .features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP,
        .mt_workers_shared = 1, // regions are mapped beside the poller
    };
    s = ucx.ucp_init_version(UCP_API_MAJOR, UCP_API_MINOR, &p, config, context);
    ucx.ucp_config_release(config);
    return s;
}

static ucs_status_t open_worker(rail *r, ucp_context_h context)
{
    ucp_worker_params_t p = {
        .field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE | UCP_WORKER_PARAM_FIELD_FLAGS,
        .thread_mode = UCS_THREAD_MODE_SERIALIZED,
        .flags = UCP_WORKER_FLAG_IGNORE_REQUEST_LEAK, // a peer killed inside shm rendezvous leaks some
    };
    ucs_status_t s = ucx.ucp_worker_create(context, &p, &r->worker);
    if (s != UCS_OK)
        return s;
    ucp_worker_attr_t a = {.field_mask = UCP_WORKER_ATTR_FIELD_MAX_AM_HEADER};
    if ((s = ucx.ucp_worker_query(r->worker, &a)) != UCS_OK)
        return s;
    r->pub.max_head = a.max_am_header;
    for (unsigned id = DN_AM_BATCH; id <= DN_AM_HELLO; id++)
        if ((s = set_handler(r, id)) != UCS_OK)
            return s;
    return UCS_OK;
}

dn_context *dn_open(char *err, size_t err_bytes)
{
    dn_context *c = calloc(1, sizeof *c);
    if (!c) {
        snprintf(err, err_bytes, "out of memory");
        return NULL;
    }
    dn_rest_begin();
    ucs_status_t s = open_context(&c->ucp);
    if (s == UCS_OK)
        return c;
    dn_rest_end();
    fail(err, err_bytes, "ucp_init", s);
    free(c);
    return NULL;
}

void dn_close(dn_context *c)
{
    ucx.ucp_cleanup(c->ucp);
    dn_rest_end();
    free(c);
}

dn_rail *dn_open_rail(dn_context *c, int shm, char *err, size_t err_bytes)
{
    rail *r = calloc(1, sizeof *r);
    if (!r || !(r->pub.events = calloc(SOFT_EVENTS * 2, sizeof(dn_event)))) {
        snprintf(err, err_bytes, "out of memory");
        free(r);
        return NULL;
    }
    r->cap = SOFT_EVENTS * 2;
    r->shm = shm;
    here = r;
    ucs_status_t s = open_worker(r, c->ucp);
    if (s == UCS_OK)
        return &r->pub;
    fail(err, err_bytes, "ucp_worker_create", s);
    dn_close_rail(&r->pub);
    return NULL;
}

int dn_listen(dn_rail *pub, const void *addr, size_t addr_bytes, uint16_t *port)
{
    rail *r = here = (rail *)pub;
    ucp_listener_params_t p = {
        .field_mask = UCP_LISTENER_PARAM_FIELD_SOCK_ADDR | UCP_LISTENER_PARAM_FIELD_CONN_HANDLER,
        .sockaddr = {.addr = addr, .addrlen = (socklen_t)addr_bytes},
        .conn_handler = {.cb = on_conn, .arg = NULL},
    };
    ucs_status_t s = ucx.ucp_listener_create(r->worker, &p, &r->listener);
    if (s != UCS_OK)
        return s;
    ucp_listener_attr_t a = {.field_mask = UCP_LISTENER_ATTR_FIELD_SOCKADDR};
    if ((s = ucx.ucp_listener_query(r->listener, &a)) != UCS_OK)
        return s;
    *port = ntohs(((const struct sockaddr_in *)&a.sockaddr)->sin_port); // same place in sockaddr_in6
    return UCS_OK;
}

int dn_efd(dn_rail *pub)
{
    int fd;
    return ucx.ucp_worker_get_efd(((rail *)pub)->worker, &fd) == UCS_OK ? fd : -1;
}

int dn_arm(dn_rail *pub)
{
    rail *r = here = (rail *)pub;
    return ucx.ucp_worker_arm(r->worker);
}

static void create_ep(rail *r, const dn_cmd *c)
{
    ucp_ep_params_t p = {
        .field_mask = UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER,
        .err_mode = UCP_ERR_HANDLING_MODE_PEER,
        .err_handler = {.cb = on_error, .arg = (void *)(uintptr_t)c->token},
    };
    if (c->op == DN_CONNECT) {
        p.field_mask |= UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR;
        p.flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER;
        p.sockaddr.addr = (const struct sockaddr *)(uintptr_t)c->head;
        p.sockaddr.addrlen = (socklen_t)c->head_len;
    } else {
        p.field_mask |= UCP_EP_PARAM_FIELD_CONN_REQUEST;
        p.conn_request = (ucp_conn_request_h)(uintptr_t)c->ep;
    }
    ucp_ep_h ep = NULL;
    ucs_status_t s = ucx.ucp_ep_create(r->worker, &p, &ep);
    dn_event *e = push(DN_EV_EP, c->token, s);
    if (e && s == UCS_OK)
        e->ep = (uintptr_t)ep;
}

static void send_am(rail *r, const dn_cmd *c)
{
    // REPLY tells the receiver which of its endpoints the message came by.
    ucp_request_param_t p = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_USER_DATA |
                        UCP_OP_ATTR_FIELD_DATATYPE,
        .flags = UCP_AM_SEND_FLAG_REPLY |
                 (c->flags & DN_RNDV ? UCP_AM_SEND_FLAG_RNDV : UCP_AM_SEND_FLAG_EAGER),
        .cb.send = on_send,
        .datatype = ucp_dt_make_contig(1),
        .user_data = (void *)(uintptr_t)c->token,
    };
    ucs_status_ptr_t q = ucx.ucp_am_send_nbx((ucp_ep_h)(uintptr_t)c->ep, c->am, (const void *)(uintptr_t)c->head,
                                             c->head_len, (const void *)(uintptr_t)c->body, c->body_len, &p);
    if (UCS_PTR_IS_PTR(q))
        r->pub.outstanding++;
    else
        push(DN_EV_SENT, c->token, UCS_PTR_RAW_STATUS(q));
}

static void recv_body(rail *r, const dn_cmd *c)
{
    ucp_request_param_t p = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_DATATYPE |
                        (c->memh ? UCP_OP_ATTR_FIELD_MEMH : 0),
        .cb.recv_am = on_recv,
        .datatype = ucp_dt_make_contig(1),
        .user_data = (void *)(uintptr_t)c->token,
        .memh = (ucp_mem_h)(uintptr_t)c->memh,
    };
    ucs_status_ptr_t q = ucx.ucp_am_recv_data_nbx(r->worker, (void *)(uintptr_t)c->ep, (void *)(uintptr_t)c->body,
                                                  c->body_len, &p);
    if (UCS_PTR_IS_PTR(q))
        r->pub.outstanding++;
    else
        push(DN_EV_RECEIVED, c->token, UCS_PTR_RAW_STATUS(q));
}

static void close_ep(const dn_cmd *c)
{
    ucp_request_param_t p = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_USER_DATA,
        .flags = UCP_EP_CLOSE_FLAG_FORCE,
        .cb.send = on_closed,
        .user_data = (void *)(uintptr_t)c->token,
    };
    ucs_status_ptr_t q = ucx.ucp_ep_close_nbx((ucp_ep_h)(uintptr_t)c->ep, &p);
    if (!UCS_PTR_IS_PTR(q))
        push(DN_EV_CLOSED, c->token, UCS_PTR_RAW_STATUS(q));
}

static void run(rail *r, const dn_cmd *c)
{
    switch (c->op) {
    case DN_CONNECT:
    case DN_ACCEPT:
        create_ep(r, c);
        break;
    case DN_SEND:
        send_am(r, c);
        break;
    case DN_RECV:
        recv_body(r, c);
        break;
    case DN_RELEASE:
        ucx.ucp_am_data_release(r->worker, (void *)(uintptr_t)c->ep);
        break;
    case DN_CLOSE:
        close_ep(c);
        break;
    }
}

// Rendezvous descriptors are not released here: their command may still come.
static void release_first(rail *r, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        dn_event *e = &r->pub.events[i];
        if (e->head)
            free((void *)(uintptr_t)e->head);
        if ((e->flags & DN_KEPT) && r->worker)
            ucx.ucp_am_data_release(r->worker, (void *)(uintptr_t)e->data);
        if (e->flags & DN_COPIED)
            free((void *)(uintptr_t)e->data);
    }
    r->pub.count -= n;
    if (r->pub.count)
        memmove(r->pub.events, r->pub.events + n, r->pub.count * sizeof(dn_event));
}

static void release_events(rail *r) { release_first(r, r->pub.count); }

void dn_submit(uintptr_t pub, const dn_cmd *cmds, int n)
{
    rail *r = here = (rail *)pub;
    for (int i = 0; i < n; i++)
        run(r, &cmds[i]);
}

int dn_step(uintptr_t pub, const dn_cmd *cmds, int n, int rounds, uint32_t handled)
{
    rail *r = here = (rail *)pub;
    release_first(r, handled);
    for (int i = 0; i < n; i++)
        run(r, &cmds[i]);
    // The first events end the step: what they cause goes out while the peer still works on the rest.
    uint32_t busy = 0;
    int idle = 0;
    do {
        if (ucx.ucp_worker_progress(r->worker))
            busy++;
        else
            idle++;
    } while (!r->pub.count && idle < rounds && busy < BUSY_ROUNDS);
    r->pub.active = busy;
    return (int)r->pub.count;
}

size_t dn_ep_info(uint64_t ep, char *text, size_t bytes)
{
    char *all = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&all, &n);
    if (!f)
        return 0;
    ucx.ucp_ep_print_info((ucp_ep_h)(uintptr_t)ep, f);
    fclose(f);
    if (n > bytes)
        n = bytes;
    memcpy(text, all, n);
    free(all);
    return n;
}

int dn_mem_map(dn_context *c, void *addr, size_t bytes, uint64_t *memh)
{
    ucp_mem_map_params_t p = {
        .field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH | UCP_MEM_MAP_PARAM_FIELD_FLAGS,
        .address = addr,
        .length = bytes,
        .flags = UCP_MEM_MAP_NONBLOCK, // do not touch pages that nobody wrote
    };
    ucp_mem_h h = NULL;
    ucs_status_t s = ucx.ucp_mem_map(c->ucp, &p, &h);
    *memh = (uintptr_t)h;
    return s;
}

void dn_shm_room(uint64_t *segments, uint64_t *bytes)
{
    struct shminfo most;
    struct shm_info now;
    *segments = *bytes = 0;
    if (shmctl(0, IPC_INFO, (struct shmid_ds *)&most) < 0 || shmctl(0, SHM_INFO, (struct shmid_ds *)&now) < 0)
        return;
    uint64_t used = (uint64_t)now.used_ids, pages = now.shm_tot;
    if (most.shmmni > used)
        *segments = most.shmmni - used;
    if (most.shmall > pages)
        *bytes = most.shmall - pages > UINT64_MAX >> 16 ? UINT64_MAX : (most.shmall - pages) * (uint64_t)sysconf(_SC_PAGESIZE);
}

int dn_mem_unmap(dn_context *c, uint64_t memh)
{
    return ucx.ucp_mem_unmap(c->ucp, (ucp_mem_h)(uintptr_t)memh);
}

// settle lets copies by cma end that outlive their endpoint: UCX 1.13.1 aborts if a worker is destroyed
// with one queued (scopy_ep.c, uct_scopy_ep_t cleanup). A flush in that queue is no progress, hence several idle rounds.
// Workers of tcp have no such queue.
static void settle(rail *r)
{
    for (int idle = 0, i = 0; idle < IDLE_ROUNDS && i < SETTLE_ROUNDS; i++) {
        idle = ucx.ucp_worker_progress(r->worker) ? 0 : idle + 1;
        release_events(r);
    }
}

void dn_close_rail(dn_rail *pub)
{
    rail *r = here = (rail *)pub;
    if (r->worker) {
        release_events(r);
        if (r->listener)
            ucx.ucp_listener_destroy(r->listener);
        if (r->shm)
            settle(r);
        ucx.ucp_worker_destroy(r->worker);
        r->worker = NULL;
    }
    release_events(r); // what the destruction reported
    free(r->pub.events);
    free(r);
    here = NULL;
}
