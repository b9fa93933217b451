#include "shared.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define LOAD(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define STORE(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "records are little-endian");

int64_t dn_boot_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

void dn_shared_format(void *shared, const uint8_t id[16], uint64_t arena_at, uint64_t arena_bytes, uint32_t partitions, int64_t clock_base)
{
    dn_shared *s = shared;
    memcpy(s->id, id, sizeof s->id);
    s->arena_at = arena_at;
    s->arena_bytes = arena_bytes;
    s->partitions = partitions;
    s->clock_base = clock_base;
    STORE(&s->magic, DN_SHARED_MAGIC);
}

void dn_shared_set(void *shared, uint32_t partition, uint64_t word) { STORE(&((dn_shared *)shared)->partition[partition], word); }
void dn_shared_renew(void *shared, int64_t valid_until) { STORE(&((dn_shared *)shared)->valid_until, valid_until); }

// The keeper. However the process ends, the kernel walks each thread's list of robust futexes before it closes the
// process's files and lets its parent know: who sees the process dead, or its port free, finds the id gone.
struct dn_keeper {
    pthread_t thread;
    dn_shared *shared;
    sem_t ready, stop;
    int err;
};

static void wait_for(sem_t *s)
{
    while (sem_wait(s) != 0 && errno == EINTR)
        ;
}

static void *keep(void *arg)
{
    dn_keeper *k = arg;
    dn_shared *s = k->shared;
    s->node.next = &s->robust.list;
    s->robust.list.next = &s->node;
    s->robust.futex_offset = (long)((char *)&s->keeper - (char *)&s->node);
    s->robust.list_op_pending = NULL;
    // In place of the C library's own list, which this thread has no use for.
    if (syscall(SYS_set_robust_list, &s->robust, sizeof s->robust) != 0)
        k->err = errno;
    else
        STORE(&s->keeper, (uint32_t)syscall(SYS_gettid));
    sem_post(&k->ready);
    wait_for(&k->stop);
    STORE(&s->keeper, 0);
    syscall(SYS_set_robust_list, NULL, sizeof s->robust); // the memory goes before the thread does
    return NULL;
}

dn_keeper *dn_keep(void *shared, int *err)
{
    dn_keeper *k = calloc(1, sizeof *k);
    if (k == NULL) {
        *err = ENOMEM;
        return NULL;
    }
    k->shared = shared;
    sem_init(&k->ready, 0, 0);
    sem_init(&k->stop, 0, 0);
    sigset_t all, before;
    sigfillset(&all); // signals are for the Go runtime's threads
    pthread_sigmask(SIG_SETMASK, &all, &before);
    *err = pthread_create(&k->thread, NULL, keep, k);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (*err != 0) {
        free(k);
        return NULL;
    }
    wait_for(&k->ready);
    if ((*err = k->err) != 0) {
        dn_unkeep(k);
        return NULL;
    }
    return k;
}

void dn_unkeep(dn_keeper *k)
{
    sem_post(&k->stop);
    pthread_join(k->thread, NULL);
    sem_destroy(&k->ready);
    sem_destroy(&k->stop);
    free(k);
}

int dn_view_open(dn_view *v, uintptr_t base, uint64_t mapped_bytes, const uint8_t id[16])
{
    const dn_shared *s = (const dn_shared *)base;
    if (mapped_bytes < sizeof *s || LOAD(&s->magic) != DN_SHARED_MAGIC || memcmp(s->id, id, sizeof s->id) != 0)
        return 0;
    *v = (dn_view){base, LOAD(&s->arena_at), LOAD(&s->arena_bytes), LOAD(&s->clock_base), LOAD(&s->partitions)};
    return v->arena_at >= sizeof *s && v->arena_at <= mapped_bytes && v->arena_at % 64 == 0 && v->arena_bytes == mapped_bytes - v->arena_at &&
           v->partitions <= (v->arena_at - sizeof *s) / sizeof s->partition[0];
}

static inline int alive(const dn_shared *s) { return (LOAD(&s->keeper) & FUTEX_TID_MASK) != 0; }

int dn_view_alive(const dn_view *v) { return alive((const dn_shared *)v->base); }

// FIELD reads a field of a record once: it may change under us, and what was checked must be what is used.
#define FIELD(type, field) __atomic_load_n((const type *)(rec + (field)), __ATOMIC_RELAXED)

// A reader of a sequence lock: what it copies may be torn, or be something else by now, so nothing of it counts before
// the state was seen again. Each look from there on is later than the one before. An owner takes a record, a partition
// or itself back before anybody can act on it, so the value was current when the state was seen the
// second time (ARCHITECTURE.md, "Direct reads").
int dn_view_read(const dn_view *v, const dn_place *p, const void *key, void *dst, uint64_t dst_bytes, dn_value *value)
{
    const dn_shared *s = (const dn_shared *)v->base;
    const uint64_t header = DN_REC_KEY + (uint64_t)p->key_bytes;
    if (p->partition >= v->partitions || p->at % 8 != 0 || p->at > v->arena_bytes || header > v->arena_bytes - p->at)
        return DN_STALE;
    const uint8_t *rec = (const uint8_t *)v->base + v->arena_at + p->at;
    const uint64_t *state = (const uint64_t *)(rec + DN_REC_STATE);
    const uint64_t before = LOAD(state);
    if (!(before & DN_REC_LIVE) || FIELD(uint64_t, DN_REC_GENERATION) != p->generation || FIELD(uint16_t, DN_REC_PARTITION) != p->partition ||
        FIELD(uint16_t, DN_REC_KEY_BYTES) != p->key_bytes || memcmp(rec + DN_REC_KEY, key, p->key_bytes) != 0)
        return alive(s) ? DN_STALE : DN_OWNER_GONE;
    const uint64_t bytes = FIELD(uint32_t, DN_REC_VALUE_BYTES);
    const int64_t deadline = FIELD(int64_t, DN_REC_DEADLINE);
    const uint32_t crc = FIELD(uint32_t, DN_REC_CRC);
    if (bytes > v->arena_bytes - p->at - header)
        return DN_STALE;
    if (bytes <= dst_bytes)
        memcpy(dst, rec + header, bytes);
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    // The version alone would do if it could not wrap around; a generation never comes back.
    if (FIELD(uint64_t, DN_REC_GENERATION) != p->generation)
        return DN_STALE;
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    if ((LOAD(state) ^ before) & (DN_REC_LIVE | DN_REC_VERSION))
        return DN_STALE;
    if (LOAD(&s->partition[p->partition]) != p->word)
        return alive(s) ? DN_NOT_SERVING : DN_OWNER_GONE;
    const int64_t now = dn_boot_now();
    if (!alive(s))
        return DN_OWNER_GONE;
    if (now >= LOAD(&s->valid_until))
        return DN_NOT_VALID;
    *value = (dn_value){.bytes = bytes, .crc = crc};
    if (deadline != 0 && (value->life = deadline - (now - v->clock_base)) <= 0)
        return DN_EXPIRED;
    return bytes <= dst_bytes ? DN_READ : DN_TOO_LONG;
}
