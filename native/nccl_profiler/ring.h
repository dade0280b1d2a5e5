// The ring that many threads of one process write, in the layout of tightwire/ccl/probe/ring.py, with a table of transfers
// after the records. A writer takes a number, fills its record and stamps it; readers pass over what is not stamped yet.
// Nothing here waits for another thread.
#pragma once
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <atomic>

namespace tightwire {

constexpr size_t kHeaderBytes = 4096, kFrames = 256, kRecords = 16384, kTransfers = 4096;
constexpr uint64_t kStamped = 1;  // a flag: records carry their number, counted from 1, as their last field

using U64 = std::atomic<uint64_t>;
using U32 = std::atomic<uint32_t>;
static_assert(sizeof(U64) == 8 && U64::is_always_lock_free && sizeof(U32) == 4);

struct Header {
    char magic[8];
    uint32_t version, capacity, rank, world, pid, goodbye;
    uint64_t pid_start;
    U64 written, groups;
    uint64_t flags, transfers;
};
struct Frame {
    U64 group, entered, entered_ns, done, done_ns;
    U32 op, failed;
    U64 bytes, waiting;
};
struct Record {
    U64 time_ns, group, sequence, bytes, shape;
    U64 op_peer, kind_dtype;  // two 32-bit fields; two of 16 bits and a pad
    U64 stamp;
};
// What crossed between this rank and one peer in one direction: counts for hangs, their change for rates.
struct Transfer {
    U64 key, bytes, steps_started, steps_done, last_ns;
    U64 state, state_ns, waited_ns;  // what the proxy's newest step waits for, since when; waits for the network so far
};
static_assert(sizeof(Frame) == 64 && sizeof(Record) == 64 && sizeof(Transfer) == 64);

enum Kind : uint16_t { kEntered = 1, kStarted = 2, kProgress = 3, kDone = 4, kFailed = 5 };

inline uint64_t now_ns() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return uint64_t(t.tv_sec) * 1000000000u + uint64_t(t.tv_nsec);
}
template <class T, class V> void put(T& field, V value) { field.store(value, std::memory_order_relaxed); }
template <class T> auto get(const T& field) { return field.load(std::memory_order_relaxed); }

class Ring {
  public:
    // False, and nothing is left behind, where the file cannot be made.
    bool open(const char* path, uint32_t rank, uint32_t world, uint64_t pid_start) {
        char fresh[512];
        if (snprintf(fresh, sizeof fresh, "%s.new", path) >= int(sizeof fresh)) return false;
        const size_t size = kHeaderBytes + kFrames * sizeof(Frame) + kRecords * sizeof(Record) + kTransfers * sizeof(Transfer);
        const int file = ::open(fresh, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (file < 0) return false;
        void* base = MAP_FAILED;
        if (posix_fallocate(file, 0, off_t(size)) == 0)  // now, so that a full /dev/shm is an error and not a SIGBUS
            base = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        ::close(file);
        if (base == MAP_FAILED) {
            unlink(fresh);
            return false;
        }
        char* at = static_cast<char*>(base);
        header = reinterpret_cast<Header*>(at);
        frames = reinterpret_cast<Frame*>(at + kHeaderBytes);
        records_ = reinterpret_cast<Record*>(frames + kFrames);
        transfers_ = reinterpret_cast<Transfer*>(records_ + kRecords);
        memcpy(header->magic, "TWRING01", 8);
        header->version = 1, header->capacity = kRecords, header->rank = rank, header->world = world;
        header->pid = uint32_t(getpid()), header->pid_start = pid_start;
        header->flags = kStamped, header->transfers = kTransfers;
        if (rename(fresh, path) == 0) return true;
        munmap(base, size);
        unlink(fresh);
        header = nullptr;
        return false;
    }

    void write(uint64_t time_ns, uint64_t group, uint64_t sequence, uint64_t bytes, uint64_t shape, uint32_t op, uint32_t peer,
               Kind kind, uint16_t dtype) {
        const uint64_t number = header->written.fetch_add(1, std::memory_order_relaxed);
        Record& record = records_[number % kRecords];
        record.stamp.exchange(0, std::memory_order_acquire);  // before any field changes
        put(record.time_ns, time_ns), put(record.group, group), put(record.sequence, sequence), put(record.bytes, bytes);
        put(record.shape, shape), put(record.op_peer, uint64_t(op) | uint64_t(peer) << 32);
        put(record.kind_dtype, uint64_t(kind) | uint64_t(dtype) << 16);
        record.stamp.store(number + 1, std::memory_order_release);
    }

    // The counters of `key`, never 0; null when the table is full.
    Transfer* transfer(uint64_t key) {
        size_t at = (key * 0x9E3779B97F4A7C15ull) >> 52;
        static_assert(kTransfers == 1 << 12);
        for (size_t tries = 0; tries < 64; ++tries, at = (at + 1) % kTransfers) {
            uint64_t found = transfers_[at].key.load(std::memory_order_acquire);
            if (found == 0 && transfers_[at].key.compare_exchange_strong(found, key, std::memory_order_acq_rel)) return &transfers_[at];
            if (found == key) return &transfers_[at];
        }
        return nullptr;
    }

    Header* header = nullptr;
    Frame* frames = nullptr;

  private:
    Record* records_ = nullptr;
    Transfer* transfers_ = nullptr;
};

}  // namespace tightwire
