// The C side of ucxnet: UCX behind integers and two arrays.
//
// A context is a UCX context, in which memory is registered and which the workers of one configuration
// share. A rail is one worker of it with at most one listener. Everything happens in dn_step: it runs
// commands, lets UCX progress, and leaves events in an array; what they name is valid until a later dn_step
// is told that they were handled. dn_submit is for sends that shall not wait for the next step. UCX
// calls back only inside these functions, and a callback does nothing but append an event. One thread at
// a time may use a rail; dn_mem_map and dn_mem_unmap may run beside it.
#ifndef DN_SHIM_H
#define DN_SHIM_H

#include <stddef.h>
#include <stdint.h>

// Commands. Memory that a SEND names stays valid until its SENT event, a RECV's until RECEIVED.
enum {
    DN_CONNECT = 1, // head: struct sockaddr of head_len bytes -> EP
    DN_ACCEPT,      // ep: connection request, of this or another rail of the context -> EP
    DN_SEND,        // ep, am, head, body, flags -> SENT
    DN_RECV,        // ep: rendezvous descriptor, body: destination, memh -> RECEIVED
    DN_RELEASE,     // ep: rendezvous descriptor that is not wanted
    DN_CLOSE        // ep: close by force -> CLOSED
};

enum { DN_EAGER = 1, DN_RNDV = 2 }; // flags of DN_SEND

typedef struct {
    uint16_t op, am;
    uint32_t flags;
    uint64_t token; // comes back with the event
    uint64_t ep;
    uint64_t head, head_len;
    uint64_t body, body_len;
    uint64_t memh;
} dn_cmd;

enum {
    DN_EV_CONN = 1, // ep: connection request, to be accepted; data: the peer's sockaddr
    DN_EV_EP,       // token, status; ep when status is 0
    DN_EV_ERROR,    // token of CONNECT or ACCEPT: the endpoint failed and wants DN_CLOSE
    DN_EV_CLOSED,   // token
    DN_EV_AM,       // am, ep (0: no reply endpoint), head, data
    DN_EV_SENT,     // token, status
    DN_EV_RECEIVED  // token, status
};

enum {
    DN_KEPT = 1,     // data belongs to UCX and is released by the next step
    DN_COPIED = 2,   // data was copied and is freed by the next step
    DN_RNDV_DESC = 4 // data is a rendezvous descriptor: answer with DN_RECV or DN_RELEASE
};

typedef struct {
    uint16_t kind, am;
    int32_t status;
    uint64_t token, ep;
    uint64_t data, len;
    uint64_t head;
    uint32_t head_len, flags;
} dn_event;

typedef struct {
    dn_event *events; // of the last step, and of what was submitted since
    uint32_t count;
    uint32_t active;      // calls of ucp_worker_progress in the last step that did something
    uint32_t lost;        // events lost for want of memory, in all: close every endpoint
    uint32_t outstanding; // sends and receives without their event
    uint64_t max_head;    // longest head of an active message
} dn_rail;

enum { DN_AM_BATCH = 1, DN_AM_SEPARATE = 2, DN_AM_HELLO = 3 };

// dn_load opens libucp once per process. 0, or -1 with a message in err.
int dn_load(char *err, size_t err_bytes);
void dn_version(unsigned *major, unsigned *minor, unsigned *release);
const char *dn_status(int status);

typedef struct dn_context dn_context;

// dn_open makes a context as the environment says, dn_open_rail a rail in it. NULL with a message in err
// on failure. shm: the environment of the context was that of shared memory.
dn_context *dn_open(char *err, size_t err_bytes);
dn_rail *dn_open_rail(dn_context *context, int shm, char *err, size_t err_bytes);
// dn_close destroys a context, whose rails are closed and whose memory is unmapped before.
void dn_close(dn_context *context);
// dn_listen binds the listener; *port becomes the bound port. A UCX status.
int dn_listen(dn_rail *rail, const void *addr, size_t addr_bytes, uint16_t *port);
int dn_efd(dn_rail *rail);
// dn_arm prepares for sleep on the event fd; not 0: there is work, do not sleep.
int dn_arm(dn_rail *rail);
// dn_step releases the first handled events, runs the commands and asks UCX; the number of events. The rail is
// a dn_rail * as a number: of a pointer to pointers cgo looks at every call whether it is Go's.
int dn_step(uintptr_t rail, const dn_cmd *cmds, int n, int rounds, uint32_t handled);
// dn_submit only runs commands, between steps. It may add events, and so move the array.
void dn_submit(uintptr_t rail, const dn_cmd *cmds, int n);
// dn_ep_info writes UCX's description of the endpoint into text, cut to fit; the bytes written.
size_t dn_ep_info(uint64_t ep, char *text, size_t bytes);
// dn_close_rail destroys listener and worker. Endpoints are closed before.
// dn_shm_room tells how much System V shared memory the kernel still gives; 0 when it does not say.
void dn_shm_room(uint64_t *segments, uint64_t *bytes);
void dn_close_rail(dn_rail *rail);

// A closed socket's descriptor number rests while a context is open (close.c). dn_rest_tick ends the rest of
// those that rested long enough, and returns how many still do; call it every 10 to 100 ms.
void dn_rest_begin(void);
void dn_rest_end(void);
unsigned dn_rest_tick(void);

int dn_mem_map(dn_context *context, void *addr, size_t bytes, uint64_t *memh);
int dn_mem_unmap(dn_context *context, uint64_t memh);

#endif
