// close(2) for the whole process: the number of a closed socket rests before it is given out again.
//
// UCX 1.13.1 keeps the sockets of its connection manager, and the events that its own thread has taken
// for them from epoll, by descriptor number. When a socket is closed after its event was taken, and another
// is opened before the event's turn, the newcomer gets the number and then the event, and UCX aborts
// (tcp_sockcm_ep.c, uct_tcp_sockcm_ep_progress_send; async.c, ucs_async_handler_dispatch). So a
// closed socket's number goes to /dev/null until all events of its time have been handled.
//
// UCX closes some sockets twice. The second time is an error, as it would be without us, and must not free the number:
// the end of its rest would then close whatever has got it since, such as a listener.
//
// The dynamic linker finds this definition before libc's, also for the libraries of UCX.
#define _GNU_SOURCE
#include "shim.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { RESTING_MAX = 1024 };

static const uint64_t REST = 2000 * 1000000ull;     // ns
static const uint64_t LONGEST_TICK = 100 * 1000000ull; // of a process that was stopped no more counts

static struct {
    pthread_mutex_t mu;
    int users;      // contexts; without one nothing rests
    int null;       // /dev/null, -1 until needed
    uint64_t clock; // time while UCX's thread could run, ns
    uint64_t seen;  // now of the last tick
    struct {
        int fd;
        uint64_t due;
    } ring[RESTING_MAX];
    unsigned head, count;
} rest = {.mu = PTHREAD_MUTEX_INITIALIZER, .null = -1};

static int really_close(int fd) { return (int)syscall(SYS_close, fd); }

static void wake_oldest(void)
{
    really_close(rest.ring[rest.head].fd);
    rest.head = (rest.head + 1) % RESTING_MAX;
    rest.count--;
}

// in_use reports whether fd is a socket that may have events: one that never had an address only served
// an ioctl, and UCX closes some thirty of those for each worker that it makes.
static int in_use(int fd)
{
    struct sockaddr_in6 a = {0};
    socklen_t bytes = sizeof a;
    if (getsockname(fd, (struct sockaddr *)&a, &bytes) != 0)
        return 0;
    return (a.sin6_family != AF_INET && a.sin6_family != AF_INET6) || a.sin6_port != 0; // same place in sockaddr_in
}

static int is_resting(int fd)
{
    for (unsigned i = 0; i < rest.count; i++)
        if (rest.ring[(rest.head + i) % RESTING_MAX].fd == fd)
            return 1;
    return 0;
}

int close(int fd)
{
    int before = errno;
    pthread_mutex_lock(&rest.mu);
    if (is_resting(fd)) {
        pthread_mutex_unlock(&rest.mu);
        errno = EBADF;
        return -1;
    }
    int rests = rest.users > 0 && in_use(fd);
    if (rests && rest.null < 0)
        rest.null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    rests = rests && dup3(rest.null, fd, O_CLOEXEC) == fd; // closes the socket, keeps the number
    if (rests) {
        if (rest.count == RESTING_MAX)
            wake_oldest();
        unsigned tail = (rest.head + rest.count++) % RESTING_MAX;
        rest.ring[tail].fd = fd;
        rest.ring[tail].due = rest.clock + REST;
    }
    pthread_mutex_unlock(&rest.mu);
    errno = before;
    return rests ? 0 : really_close(fd);
}

void dn_rest_begin(void)
{
    pthread_mutex_lock(&rest.mu);
    rest.users++;
    pthread_mutex_unlock(&rest.mu);
}

void dn_rest_end(void)
{
    pthread_mutex_lock(&rest.mu);
    if (--rest.users == 0) { // UCX's thread has gone with the last context
        while (rest.count)
            wake_oldest();
        if (rest.null >= 0)
            really_close(rest.null);
        rest.null = -1;
    }
    pthread_mutex_unlock(&rest.mu);
}

unsigned dn_rest_tick(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    uint64_t now = (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
    pthread_mutex_lock(&rest.mu);
    if (now > rest.seen) {
        uint64_t passed = now - rest.seen;
        rest.clock += passed < LONGEST_TICK ? passed : LONGEST_TICK;
        rest.seen = now;
    }
    while (rest.count && rest.ring[rest.head].due <= rest.clock)
        wake_oldest();
    unsigned count = rest.count;
    pthread_mutex_unlock(&rest.mu);
    return count;
}
