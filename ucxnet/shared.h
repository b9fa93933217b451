// Memory that other processes of this host read by themselves.
//
// One file: this header with a word per partition, then from arena_at on the arena. Its owner maps it for writing
// and keeps a thread, the keeper, for as long as the region is open. Readers map it read-only.
#ifndef DN_SHARED_H
#define DN_SHARED_H

#include <stddef.h>
#include <stdint.h>
#include <linux/futex.h>

// In a record's state.
#define DN_REC_LIVE 1ull
#define DN_REC_VERSION 0xffffffff00000000ull

#define DN_SHARED_MAGIC 0x315248534d415244ull // "DRAMSHR1" in memory order

// Where the fields of a record are, from its place on; package wire has the same numbers and says what they mean.
enum {
    DN_REC_STATE = 0,
    DN_REC_GENERATION = 8,
    DN_REC_DEADLINE = 16,
    DN_REC_VALUE_BYTES = 24,
    DN_REC_CRC = 28,
    DN_REC_KEY_BYTES = 32,
    DN_REC_PARTITION = 34,
    DN_REC_KEY = 40
};

typedef struct {
    uint64_t magic; // written last
    uint8_t id[16]; // random: proves that a file is the one that a ticket stands for
    uint64_t arena_at, arena_bytes;
    uint32_t partitions, reserved;
    int64_t clock_base; // CLOCK_BOOTTIME at 0 of the records' clock, or earlier: deadlines come early rather than late

    _Alignas(64) int64_t valid_until; // CLOCK_BOOTTIME
    uint32_t keeper;                  // a robust futex: the keeper's thread id while the owner lives; no id: it does not

    // Of the kernel, for the keeper. They lie here since the kernel's reaper of processes that are out of memory
    // frees private memory before it walks the list.
    struct robust_list node;
    struct robust_list_head robust;

    _Alignas(64) uint64_t partition[]; // epoch << 32 | 1 while its records may be read
} dn_shared;

// dn_shared_format writes the header of a region that nobody else maps yet, with no partition readable.
void dn_shared_format(void *shared, const uint8_t id[16], uint64_t arena_at, uint64_t arena_bytes, uint32_t partitions, int64_t clock_base);
void dn_shared_set(void *shared, uint32_t partition, uint64_t word);
void dn_shared_renew(void *shared, int64_t valid_until);
int64_t dn_boot_now(void);

// dn_keep starts the keeper; NULL with an errno in *err. dn_unkeep says that the owner has gone, and ends it.
typedef struct dn_keeper dn_keeper;
dn_keeper *dn_keep(void *shared, int *err);
void dn_unkeep(dn_keeper *keeper);

// A view is the reader's. It has what never changes, copied once and checked: a faulty owner, or a mapping that was
// replaced by zeros, cannot lead a reader out of the mapping.
typedef struct {
    uintptr_t base;
    uint64_t arena_at, arena_bytes;
    int64_t clock_base;
    uint32_t partitions;
} dn_view;

// dn_view_open returns 0 when the bytes mapped at base have no header with this id that describes them.
int dn_view_open(dn_view *view, uintptr_t base, uint64_t mapped_bytes, const uint8_t id[16]);
int dn_view_alive(const dn_view *view);

enum { DN_READ = 0, DN_STALE, DN_EXPIRED, DN_NOT_SERVING, DN_NOT_VALID, DN_OWNER_GONE, DN_TOO_LONG };

typedef struct {
    uint64_t at, generation, word; // word: what the partition's must be
    uint32_t partition, key_bytes;
} dn_place;

typedef struct {
    uint64_t bytes;
    int64_t life; // nanoseconds; 0: for ever
    uint32_t crc;
} dn_value;

int dn_view_read(const dn_view *view, const dn_place *place, const void *key, void *dst, uint64_t dst_bytes, dn_value *value);

#endif
