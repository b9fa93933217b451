// Drives the shim alone, two contexts in one process, so that it can run under AddressSanitizer. What
// connects to the one rail, the lobby, is accepted by another one of its context:
// connect, hello, eager, long eager, rendezvous, a refused rendezvous, a close with sends under way.
// The environment chooses the transport, and the argument says which it is. See ../asan_test.go.
#include "../shim.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_CMDS = 64, LONG = 60000, BULK = 1 << 20, TURNS = 2000000 };

typedef struct {
    dn_context *context;
    dn_rail *rail;
    uint64_t request;       // to connect
    dn_cmd cmds[MAX_CMDS];
    int n;
    uint32_t handled;       // events
    uint64_t ep;            // of the connection
    int requests, created, closed, errors, sent, failed, received, messages, bulk_offered;
    uint64_t descriptors[32]; // every rendezvous offered
    size_t last_len;
    unsigned last_sum;
    int broken; // the connection is closed with bodies under way
} side;

static void die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

static unsigned sum(const unsigned char *p, size_t n)
{
    unsigned s = 1;
    for (size_t i = 0; i < n; i++)
        s = s * 31 + p[i];
    return s;
}

static dn_cmd *add(side *s, int op)
{
    if (s->n == MAX_CMDS)
        die("too many commands");
    dn_cmd *c = &s->cmds[s->n++];
    *c = (dn_cmd){.op = (uint16_t)op};
    return c;
}

static void on_event(side *s, const dn_event *e)
{
    switch (e->kind) {
    case DN_EV_CONN:
        if (e->len == 0)
            die("a connection request without an address");
        s->request = e->ep;
        s->requests++;
        break;
    case DN_EV_EP:
        if (e->status)
            die("endpoint: %s", dn_status(e->status));
        s->created++;
        s->ep = e->ep;
        break;
    case DN_EV_ERROR: s->errors++; break;
    case DN_EV_CLOSED: s->closed++; break;
    case DN_EV_SENT:
        s->sent++;
        s->failed += e->status != 0;
        break;
    case DN_EV_RECEIVED:
        if (e->status && !s->broken)
            die("receive: %s", dn_status(e->status));
        s->received++;
        break;
    case DN_EV_AM:
        if (e->ep != s->ep)
            die("a message by endpoint %lx, want %lx", (long)e->ep, (long)s->ep);
        s->last_len = e->len;
        if (e->flags & DN_RNDV_DESC) {
            s->descriptors[s->bulk_offered++] = e->data;
        } else {
            s->last_sum = sum((const unsigned char *)(uintptr_t)e->data, e->len);
            s->messages++;
        }
        if (e->head_len && memcmp((void *)(uintptr_t)e->head, "head", 4))
            die("the header is damaged");
    }
}

static void step(side *s)
{
    int n = s->n;
    dn_cmd cmds[MAX_CMDS];
    memcpy(cmds, s->cmds, sizeof cmds);
    s->n = 0;
    int events = dn_step((uintptr_t)s->rail, cmds, n, 4, s->handled);
    for (int i = 0; i < events; i++)
        on_event(s, &s->rail->events[i]);
    s->handled = (uint32_t)events;
}

// submit runs the commands now; their events come with those of the next step.
static void submit(side *s)
{
    dn_submit((uintptr_t)s->rail, s->cmds, s->n);
    s->n = 0;
}

static void until(side *a, side *b, const int *counter, int want, const char *what)
{
    for (int i = 0; i < TURNS; i++) {
        if (*counter >= want)
            return;
        step(a);
        step(b);
    }
    die("no %s", what);
}

static void send_to(side *s, int am, const char *head, const void *body, size_t n, int flags)
{
    dn_cmd *c = add(s, DN_SEND);
    c->am = (uint16_t)am;
    c->flags = (uint32_t)flags;
    c->ep = s->ep;
    c->head = (uintptr_t)head;
    c->head_len = head ? strlen(head) : 0;
    c->body = (uintptr_t)body;
    c->body_len = n;
    c->token = 1;
}

static int shm; // the transport is shared memory

// open_side opens a rail in the context; NULL: in one of its own.
static void open_side(side *s, dn_context *context)
{
    char err[256];
    *s = (side){.context = context};
    if (!context && !(s->context = dn_open(err, sizeof err)))
        die("%s", err);
    if (!(s->rail = dn_open_rail(s->context, shm, err, sizeof err)))
        die("%s", err);
}

static void connect_sides(side *client, uint16_t port)
{
    static struct sockaddr_in addr;
    addr = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, "127.0.0.1", &addr.sin_addr);
    dn_cmd *c = add(client, DN_CONNECT);
    c->head = (uintptr_t)&addr;
    c->head_len = sizeof addr;
    c->token = 7;
}

// exchange sends a message of n bytes from a to b twice, the second between two steps, and checks what arrives.
static void exchange(side *a, side *b, int am, const unsigned char *body, size_t n)
{
    int messages = b->messages, sent = a->sent;
    for (int i = 1; i <= 2; i++) {
        send_to(a, am, am == DN_AM_SEPARATE ? "head" : NULL, body, n, DN_EAGER);
        if (i == 2)
            submit(a);
        until(a, b, &b->messages, messages + i, "message");
        until(a, b, &a->sent, sent + i, "completion");
    }
    if (b->last_len != n || b->last_sum != sum(body, n))
        die("message of %zu bytes arrived as %zu", n, b->last_len);
}

// bound returns a socket with an address, as UCX's connection manager has them.
static int bound(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET};
    inet_pton(AF_INET, "127.0.0.1", &a.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a))
        die("bind: %s", strerror(errno));
    return fd;
}

// rests checks that a closed socket's number is not given out again, not even after a second close, and that the
// end of its rest closes nobody else's.
static void rests(void)
{
    dn_rest_begin();
    int fd = bound();
    if (close(fd))
        die("close: %s", strerror(errno));
    if (!close(fd) || errno != EBADF)
        die("the second close of %d succeeds", fd);
    int other = bound();
    if (other == fd)
        die("%d was given out again after its second close", fd);
    dn_rest_end();
    struct sockaddr_in a;
    socklen_t bytes = sizeof a;
    if (getsockname(other, (struct sockaddr *)&a, &bytes))
        die("the end of the rest closed another socket: %s", strerror(errno));
    if (fcntl(fd, F_GETFD) != -1)
        die("%d is open after its rest", fd);
    close(other);
}

// cut destroys the server's worker as soon as its connection is closed, with bodies of which it has taken none,
// some, or all. By shared memory UCX then still has copies to end.
static void cut(side *lobby, dn_context *context, uint16_t port, const unsigned char *from, unsigned char *to, uint64_t memh, int server_steps)
{
    enum { BODIES = 16 };
    side client, server;
    int requests = lobby->requests;
    open_side(&client, context);
    open_side(&server, lobby->context);
    connect_sides(&client, port);
    until(&client, lobby, &lobby->requests, requests + 1, "connection request");
    dn_cmd *a = add(&server, DN_ACCEPT);
    a->ep = lobby->request;
    a->token = 11;
    until(&client, &server, &client.created, 1, "endpoint");
    exchange(&client, &server, DN_AM_HELLO, from, 48);
    for (int i = 0; i < BODIES; i++)
        send_to(&client, DN_AM_SEPARATE, "head", from, BULK, DN_RNDV);
    until(&client, &server, &server.bulk_offered, BODIES, "rendezvous");
    for (int i = 0; i < BODIES; i++) {
        dn_cmd *c = add(&server, DN_RECV);
        c->ep = server.descriptors[i];
        c->body = (uintptr_t)to;
        c->body_len = BULK;
        c->memh = memh;
    }
    for (int i = 0; i < server_steps; i++)
        step(&server);
    server.broken = 1;
    add(&server, DN_CLOSE)->ep = server.ep;
    for (int i = 0; i < TURNS && !server.closed; i++)
        step(&server);
    if (!server.closed)
        die("no close at the server");
    dn_close_rail(server.rail);
    until(&client, lobby, &client.errors, 1, "news of the close");
    add(&client, DN_CLOSE)->ep = client.ep;
    until(&client, lobby, &client.closed, 1, "close at the client");
    dn_close_rail(client.rail);
}

int main(int argc, char **argv)
{
    shm = argc > 1 && !strcmp(argv[1], "shm");
    char err[256];
    uint16_t port = 0;
    uint64_t memh;
    side lobby, server, client;
    if (dn_load(err, sizeof err))
        die("%s", err);
    rests();
    open_side(&lobby, NULL);
    open_side(&server, lobby.context);
    open_side(&client, NULL);
    struct sockaddr_in any = {.sin_family = AF_INET};
    inet_pton(AF_INET, "127.0.0.1", &any.sin_addr);
    int status = dn_listen(lobby.rail, &any, sizeof any, &port);
    if (status)
        die("listen: %s", dn_status(status));

    unsigned char *from = malloc(BULK), *to = malloc(BULK);
    for (size_t i = 0; i < BULK; i++)
        from[i] = (unsigned char)(i * 7 + i / 251);
    if ((status = dn_mem_map(server.context, to, BULK, &memh)))
        die("map: %s", dn_status(status));

    connect_sides(&client, port);
    until(&client, &lobby, &lobby.requests, 1, "connection request");
    dn_cmd *a = add(&server, DN_ACCEPT);
    a->ep = lobby.request;
    a->token = 9;
    until(&client, &server, &client.created, 1, "endpoint");
    exchange(&client, &server, DN_AM_HELLO, from, 48);
    exchange(&server, &client, DN_AM_HELLO, from, 64);
    exchange(&client, &server, DN_AM_BATCH, from, 8000);
    exchange(&client, &server, DN_AM_SEPARATE, from, LONG);
    exchange(&server, &client, DN_AM_SEPARATE, from, LONG);

    send_to(&client, DN_AM_SEPARATE, "head", from, BULK, DN_RNDV); // taken
    until(&client, &server, &server.bulk_offered, 1, "rendezvous");
    dn_cmd *c = add(&server, DN_RECV);
    c->ep = server.descriptors[0];
    c->body = (uintptr_t)to;
    c->body_len = BULK;
    c->memh = memh;
    until(&client, &server, &server.received, 1, "body");
    if (memcmp(from, to, BULK))
        die("the body is damaged");

    int sent = client.sent;
    send_to(&client, DN_AM_SEPARATE, "head", from, BULK, DN_RNDV); // refused
    until(&client, &server, &server.bulk_offered, 2, "rendezvous");
    add(&server, DN_RELEASE)->ep = server.descriptors[1];
    until(&client, &server, &client.sent, sent + 1, "completion of a refused body");

    for (int i = 0; i < 20; i++) // closed with sends under way, and with what they leave at the server
        send_to(&client, DN_AM_SEPARATE, "head", from, i % 2 ? LONG : BULK, i % 2 ? DN_EAGER : DN_RNDV);
    step(&client);
    dn_cmd *d = add(&client, DN_CLOSE);
    d->ep = client.ep;
    until(&client, &server, &client.closed, 1, "close");
    until(&client, &server, &server.errors, 1, "news of the close");
    for (int i = 2; i < server.bulk_offered; i++)
        add(&server, DN_RELEASE)->ep = server.descriptors[i]; // the endpoint is broken: must do no harm
    add(&server, DN_CLOSE)->ep = server.ep;
    until(&client, &server, &server.closed, 1, "close at the server");
    for (int i = 0; i < 1000; i++) {
        step(&client);
        step(&server);
    }
    if (client.rail->outstanding || server.rail->outstanding)
        die("%u and %u requests left", client.rail->outstanding, server.rail->outstanding);
    for (int i = 0; i < 4; i++)
        cut(&lobby, client.context, port, from, to, memh, i);
    if ((status = dn_mem_unmap(server.context, memh)))
        die("unmap: %s", dn_status(status));
    dn_close_rail(client.rail);
    dn_close_rail(server.rail);
    dn_close_rail(lobby.rail);
    dn_close(client.context);
    dn_close(lobby.context);
    free(from);
    free(to);
    puts("ok");
    return 0;
}
