// The writer of the probe's shared-memory ring. Layout: tightwire/ccl/probe/ring.py.
#pragma once
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>

namespace tightwire {

inline constexpr size_t kHeaderBytes = 4096, kFrames = 256, kRecordBytes = 64;

struct Header {
    char magic[8];
    uint32_t version, capacity, rank, world, pid, goodbye;
    uint64_t pid_start, written, groups;
};
struct Frame {  // what one rank is doing in one group; rewritten in place
    uint64_t group, entered_seq, entered_ns, done_count, done_ns;
    uint32_t op, failed;
    uint64_t bytes, waiting;
};
struct Record {
    uint64_t time_ns, group, seq, bytes, shape;
    uint32_t op, peer;
    uint16_t kind, dtype;
    uint32_t pad;
    uint64_t reserved;
};
static_assert(sizeof(Frame) == 64 && sizeof(Record) == kRecordBytes);

inline uint64_t now_ns() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return uint64_t(t.tv_sec) * 1000000000u + uint64_t(t.tv_nsec);
}

// A field that another process reads while we write: relaxed is enough, each field stands for itself.
template <class T> void put(T& field, T value) { std::atomic_ref<T>(field).store(value, std::memory_order_relaxed); }

// Who is asked to end (SIGTERM, as launchers do to the rest of a broken job) says so in its ring, then ends as before.
inline constexpr uint32_t kGoodbyeAsked = 3;
inline Header* asked_header = nullptr;

inline void on_sigterm(int number) {  // SA_RESETHAND: the default action is back already
    // a forked child (a data loader) inherits both the handler and the mapping
    if (asked_header != nullptr && asked_header->pid == uint32_t(getpid()) && asked_header->goodbye == 0)
        put(asked_header->goodbye, kGoodbyeAsked);
    raise(number);
}

// Written by any thread of the process; each call takes the lock for some tens of nanoseconds.
class Writer {
  public:
    Writer(const std::string& path, uint32_t capacity, uint32_t rank, uint32_t world, uint32_t pid, uint64_t pid_start) {
        if (capacity == 0 || capacity > (1u << 24)) throw std::invalid_argument("capacity must be 1 to 2^24 records");
        size_ = kHeaderBytes + kFrames * sizeof(Frame) + size_t(capacity) * kRecordBytes;
        const std::string fresh = path + ".new";
        int fd = open(fresh.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (fd < 0) throw std::runtime_error("cannot create " + fresh);
        if (posix_fallocate(fd, 0, off_t(size_)) != 0) {  // now, so that a full /dev/shm is an error and not a SIGBUS
            close(fd);
            unlink(fresh.c_str());
            throw std::runtime_error("no room for " + fresh);
        }
        base_ = static_cast<char*>(mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
        close(fd);
        if (base_ == MAP_FAILED) throw std::runtime_error("cannot map " + fresh);
        header_ = reinterpret_cast<Header*>(base_);
        *header_ = Header{{'T', 'W', 'R', 'I', 'N', 'G', '0', '1'}, 1, capacity, rank, world, pid, 0, pid_start, 0, 0};
        capacity_ = capacity;
        frames_ = reinterpret_cast<Frame*>(base_ + kHeaderBytes);
        records_ = reinterpret_cast<Record*>(base_ + kHeaderBytes + kFrames * sizeof(Frame));
        if (rename(fresh.c_str(), path.c_str()) != 0) throw std::runtime_error("cannot rename to " + path);
    }
    Writer(const Writer&) = delete;
    Writer& operator=(const Writer&) = delete;
    ~Writer() {
        if (asked_header == header_) asked_header = nullptr;
        munmap(base_, size_);
    }

    // The number of the group's frame; -1 when all are taken (its records still go into the ring).
    int add_group(uint64_t group) {
        const std::lock_guard lock(mutex_);
        if (groups_ == kFrames) return -1;
        const int slot = int(groups_++);
        frames_[slot].group = group;
        put(header_->groups, groups_);
        return slot;
    }
    void entered(int slot, uint64_t group, uint64_t seq, uint32_t op, uint64_t bytes, uint32_t dtype, uint64_t shape, uint32_t peer) {
        const std::lock_guard lock(mutex_);
        const uint64_t now = now_ns();
        write({now, group, seq, bytes, shape, op, peer, 1, uint16_t(dtype), 0, 0});
        if (slot < 0 || size_t(slot) >= kFrames) return;
        Frame& f = frames_[slot];
        put(f.op, op);
        put(f.bytes, bytes);
        put(f.entered_ns, now);
        put(f.entered_seq, seq);
    }
    void done(int slot, uint64_t group, uint64_t seq, uint32_t op, bool failed) {
        const std::lock_guard lock(mutex_);
        const uint64_t now = now_ns();
        write({now, group, seq, 0, 0, op, 0, uint16_t(failed ? 5 : 4), 0, 0, 0});
        if (slot < 0 || size_t(slot) >= kFrames) return;
        if (failed) put(frames_[slot].failed, frames_[slot].failed + 1);
        put(frames_[slot].done_ns, now);
        put(frames_[slot].done_count, frames_[slot].done_count + 1);
    }
    // The rank waits for the end of its operation `seq`; 0 when it no longer does.
    void waiting(int slot, uint64_t seq) {
        if (slot >= 0 && size_t(slot) < kFrames) put(frames_[slot].waiting, seq);
    }
    // Leaves any handler that the process already has alone.
    void note_sigterm() {
        struct sigaction now {};
        if (sigaction(SIGTERM, nullptr, &now) != 0 || now.sa_handler != SIG_DFL) return;
        asked_header = header_;
        struct sigaction ours {};
        ours.sa_handler = on_sigterm;
        ours.sa_flags = SA_RESETHAND;
        sigaction(SIGTERM, &ours, nullptr);
    }
    void goodbye(uint32_t how) { put(header_->goodbye, how); }
    uint64_t written() const { return written_; }

  private:
    void write(const Record& record) {
        records_[written_ % capacity_] = record;
        std::atomic_ref<uint64_t>(header_->written).store(++written_, std::memory_order_release);
    }
    std::mutex mutex_;
    // Never read back from the header: whoever may write to the file must not be able to break the job.
    uint64_t capacity_, written_ = 0, groups_ = 0;
    char* base_;
    size_t size_;
    Header* header_;
    Frame* frames_;
    Record* records_;
};

}  // namespace tightwire
