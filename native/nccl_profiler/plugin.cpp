// libnccl-profiler-tightwire.so: what NCCL does, as events of the probe's ring. `NCCL_PROFILER_PLUGIN=<path of this file>`.
//
// It returns success whatever happens, allocates only at `init`, never waits and never follows a pointer that NCCL gives back: handles
// are numbers of a fixed table with a generation, so a handle that is stale, stopped twice or of another process is known as such.
//
// Stopping a collective's event means that it is enqueued. It is done when as many kernel channels stopped as it has, or, where NCCL
// reports none, when its proxy operations did; and when a later one of the same communicator is done (known NCCL bugs lose stops).
#include <pthread.h>
#include <stdlib.h>

#include "abi.h"
#include "communicators.h"
#include "names.h"
#include "ring.h"
#include "slots.h"

namespace {

using namespace tightwire;

constexpr uint64_t kFullMask = nccl::kCollective | nccl::kPointToPoint | nccl::kProxyOp | nccl::kProxyStep | nccl::kKernelChannel;

// Bits of an operation's progress: open children, kernel channels that stopped, proxy operations that stopped, then flags.
constexpr uint64_t kOpen = 1, kKernels = 1 << 16, kProxies = uint64_t(1) << 32;
constexpr uint64_t kEnqueued = uint64_t(1) << 60, kBegun = uint64_t(1) << 61, kEnded = uint64_t(1) << 62;
uint64_t open_of(uint64_t progress) { return progress & 0xFFFF; }
uint64_t kernels_of(uint64_t progress) { return progress >> 16 & 0xFFFF; }
uint64_t proxies_of(uint64_t progress) { return progress >> 32 & 0xFFFF; }

Ring ring;
pthread_mutex_t set_up = PTHREAD_MUTEX_INITIALIZER;  // init and finalize only
char facts_path[512];
int state = 0;  // 1: the ring is there; -1: it cannot be made

// Operation number `sequence` is done, and with it all before it.
void end(int index, uint64_t sequence, uint32_t op, uint64_t longest_ns) {
    Communicator& communicator = communicators[index];
    uint64_t before = get(communicator.done);
    while (before < sequence && !communicator.done.compare_exchange_weak(before, sequence, std::memory_order_relaxed)) {}
    const uint64_t now = now_ns();
    ring.write(now, get(communicator.id), sequence, 0, longest_ns, op, 0, kDone, 0);
    if (before >= sequence) return;
    Frame& frame = ring.frames[index];
    uint64_t shown = get(frame.done);
    while (shown < sequence && !frame.done.compare_exchange_weak(shown, sequence, std::memory_order_relaxed)) {}
    put(frame.done_ns, now);
}

// After any change of an operation's progress.
void judge(const Held& held, uint64_t progress) {
    if (open_of(progress) != 0 || !(progress & kEnqueued) || (progress & kEnded)) return;
    const uint64_t kernels = kernels_of(progress), channels = get(held.slot->channels);
    const bool all = channels != 0 && kernels >= channels;
    if (!all && !(kernels == 0 && proxies_of(progress) != 0)) return;
    if (held.slot->progress.fetch_or(kEnded, std::memory_order_acq_rel) & kEnded) return;
    const int index = place(get(held.slot->communicator));
    const uint64_t sequence = get(held.slot->sequence), longest = get(held.slot->since_ns);
    const uint32_t op = get(held.slot->op), peer = get(held.slot->peer);
    if (!held.still()) return;
    if (index >= 0 && (op == 13 || op == 14))
        ring.write(now_ns(), get(communicators[index].id), sequence, 0, longest, op, peer, kDone, 0);
    else if (index >= 0)
        end(index, sequence, op, longest);
    release(held);
}

void child_begins(const Held& parent) {
    const uint64_t before = parent.slot->progress.fetch_add(kOpen, std::memory_order_acq_rel);
    if (before & kBegun || parent.slot->progress.fetch_or(kBegun, std::memory_order_acq_rel) & kBegun) return;
    const int index = place(get(parent.slot->communicator));
    if (index < 0) return;
    ring.write(now_ns(), get(communicators[index].id), get(parent.slot->sequence), 0, 0, get(parent.slot->op), get(parent.slot->peer),
               kStarted, 0);
}

void* start_operation(int index, const nccl::Description& told, bool collective) {
    Communicator& communicator = communicators[index];
    const auto& c = told.collective;
    const auto& p = told.point_to_point;
    const uint32_t op = operation_code(collective ? c.function : p.function);
    const Datatype type = datatype_of(collective ? c.datatype : p.datatype);
    const uint32_t peer = uint32_t(collective ? c.root : p.peer);
    const uint64_t bytes = uint64_t(collective ? c.count : p.count) * type.bytes, now = now_ns();
    uint64_t sequence;
    if (collective) {
        sequence = communicator.sequence.fetch_add(1, std::memory_order_relaxed) + 1;
    } else {  // ends of a pair count for themselves
        Transfer* counters = ring.transfer((get(communicator.id) << 24 | uint64_t(peer & 0x3FFFFF) << 2 | 2 | (op == 13)) | uint64_t(1) << 63);
        sequence = counters ? counters->steps_started.fetch_add(1, std::memory_order_relaxed) + 1 : 0;
    }
    ring.write(now, get(communicator.id), sequence, bytes, collective ? c.sequence : 0, op, peer, kEntered, type.code);
    if (collective) {
        Frame& frame = ring.frames[index];
        put(frame.op, op), put(frame.bytes, bytes), put(frame.entered_ns, now), put(frame.entered, sequence);
    }
    Held held = take();
    if (!held) return kNothing;
    Slot& slot = *held.slot;
    put(slot.parent, uint64_t(0)), put(slot.communicator, kept(index)), put(slot.op, op), put(slot.peer, peer);
    put(slot.channels, uint32_t(collective ? c.channels : p.channels)), put(slot.sequence, sequence), put(slot.transfer, uint64_t(0));
    put(slot.progress, uint64_t(0)), put(slot.since_ns, uint64_t(0));
    return ready(held, kOperation);
}

// A proxy operation (`type` kProxy), one of its steps, or a kernel's channel.
void* start_child(int index, const nccl::Description& told, Type type) {
    const bool ours = type != kProxy || told.proxy_op.pid == getpid();
    Held parent = ours ? find(told.parent) : Held{nullptr, 0};
    uint64_t transfer = 0;
    if (type == kProxy) {
        const uint64_t id = ours && index >= 0 ? get(communicators[index].id) : 0;
        const uint64_t pair = uint64_t(told.proxy_op.peer & 0x3FFFFF) << 2 | uint64_t(told.proxy_op.is_send != 0);
        transfer = reinterpret_cast<uint64_t>(ring.transfer((id << 24 | pair) | uint64_t(1) << 63));
    } else if (type == kStep && parent) {
        transfer = get(parent.slot->transfer);
    }
    Held held = take();
    if (!held) return kNothing;
    Slot& slot = *held.slot;
    put(slot.parent, parent ? reinterpret_cast<uint64_t>(told.parent) : 0), put(slot.communicator, uint32_t(0));
    put(slot.op, uint32_t(0)), put(slot.peer, uint32_t(type == kProxy ? told.proxy_op.peer : 0)), put(slot.channels, uint32_t(0));
    put(slot.sequence, uint64_t(0)), put(slot.transfer, transfer), put(slot.progress, uint64_t(0));
    put(slot.since_ns, type == kChannel ? told.kernel_channel.timer_ns : 0);
    if (parent && type != kStep) child_begins(parent);
    if (type == kStep && transfer != 0) reinterpret_cast<Transfer*>(transfer)->steps_started.fetch_add(1, std::memory_order_relaxed);
    return ready(held, type);
}

nccl::Result start(void* context, void** handle, const nccl::Description* told, uint64_t type) {
    if (handle == nullptr) return 0;
    *handle = kNothing;
    if (told == nullptr || state != 1) return 0;
    // The context of a proxy operation of another process means nothing here.
    const bool foreign = type == nccl::kProxyOp && told->proxy_op.pid != getpid();
    const int index = foreign ? -1 : communicator_of(context);
    if (type == nccl::kProxyStep) *handle = start_child(index, *told, kStep);
    else if (type == nccl::kProxyOp) *handle = start_child(index, *told, kProxy);
    else if (index < 0) return 0;
    else if (type == nccl::kCollective) *handle = start_operation(index, *told, true);
    else if (type == nccl::kPointToPoint) *handle = start_operation(index, *told, false);
    else if (type == nccl::kKernelChannel) *handle = start_child(index, *told, kChannel);
    return 0;
}
nccl::Result start4(void* context, void** handle, nccl::Description* told) { return start(context, handle, told, told ? told->type4 : 0); }
nccl::Result start5(void* context, void** handle, nccl::Description* told) { return start(context, handle, told, told ? told->type5 : 0); }

nccl::Result stop(void* handle) {
    const Held held = find(handle);
    if (!held) return 0;
    Slot& slot = *held.slot;
    if (held.type() == kOperation) {
        const uint64_t progress = slot.progress.fetch_or(kEnqueued, std::memory_order_acq_rel) | kEnqueued;
        if (held.still()) judge(held, progress);
        return 0;
    }
    const Held parent = find(reinterpret_cast<void*>(get(slot.parent)));
    Transfer* counters = reinterpret_cast<Transfer*>(get(slot.transfer));
    const uint64_t bytes = get(slot.progress);
    const Type type = held.type();
    if (!held.still()) return 0;  // its slot was given to another meanwhile
    release(held);
    if (type == kStep && counters != nullptr) {
        const uint64_t now = now_ns(), since = counters->state_ns.exchange(now, std::memory_order_relaxed);
        const uint64_t was = counters->state.exchange(0, std::memory_order_relaxed);
        if ((was == nccl::kStepSendWait || was == nccl::kStepRecvWait) && since != 0 && now > since)
            counters->waited_ns.fetch_add(now - since, std::memory_order_relaxed);
        counters->bytes.fetch_add(bytes, std::memory_order_relaxed);
        counters->steps_done.fetch_add(1, std::memory_order_relaxed);
        put(counters->last_ns, now);
    }
    if (type == kStep || !parent || parent.type() != kOperation) return 0;
    const uint64_t change = (type == kChannel ? kKernels : kProxies) - kOpen;
    const uint64_t progress = parent.slot->progress.fetch_add(change, std::memory_order_acq_rel) + change;
    if (parent.still()) judge(parent, progress);
    return 0;
}

nccl::Result record(void* handle, int entered, nccl::StateArguments* arguments) {
    const Held held = find(handle);
    if (!held) return 0;
    Slot& slot = *held.slot;
    if (held.type() == kStep) {
        if (arguments != nullptr && (entered == nccl::kStepSendWait || entered == nccl::kStepRecvFlushWait || entered == nccl::kStepRecvGpuWait))
            if (arguments->bytes != 0 && held.still()) put(slot.progress, uint64_t(arguments->bytes));
        Transfer* counters = reinterpret_cast<Transfer*>(get(slot.transfer));
        if (counters == nullptr || !held.still()) return 0;
        put(counters->state, uint64_t(entered));
        put(counters->state_ns, now_ns());
    } else if (held.type() == kChannel && entered == nccl::kKernelChannelStop && arguments != nullptr) {
        const uint64_t begun = get(slot.since_ns), ended = arguments->timer_ns;
        const Held parent = find(reinterpret_cast<void*>(get(slot.parent)));
        if (begun == 0 || ended <= begun || !parent || parent.type() != kOperation) return 0;  // a stop time of zero is a known bug
        uint64_t longest = get(parent.slot->since_ns);
        while (longest < ended - begun && !parent.slot->since_ns.compare_exchange_weak(longest, ended - begun, std::memory_order_relaxed)) {}
    }
    return 0;
}

uint32_t number(const char* variable, uint32_t otherwise) {
    const char* text = getenv(variable);
    return text != nullptr && *text ? uint32_t(strtoul(text, nullptr, 10)) : otherwise;
}

// The start of this process in clock ticks since boot: field 22 of /proc/self/stat.
uint64_t start_ticks() {
    char text[1024];
    FILE* file = fopen("/proc/self/stat", "re");
    if (file == nullptr) return 0;
    const size_t count = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[count] = 0;
    const char* at = strrchr(text, ')');
    for (int field = 2; at != nullptr && field < 22; ++field) at = strchr(at + 1, ' ');
    return at == nullptr ? 0 : strtoull(at + 1, nullptr, 10);
}

bool begin() {
    if (state != 0) return state == 1;
    state = -1;
    const char* folder = getenv("TIGHTWIRE_CCL");
    if (folder == nullptr || !*folder) folder = "/dev/shm/tightwire";
    char path[480];
    if (snprintf(path, sizeof path, "%s/nccl-%d.ring", folder, int(getpid())) >= int(sizeof path)) return false;
    snprintf(facts_path, sizeof facts_path, "%s/nccl-%d.groups", folder, int(getpid()));
    void* room = mmap(nullptr, kSlots * sizeof(Slot), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room == MAP_FAILED) return false;
    if (!ring.open(path, number("RANK", 0), number("WORLD_SIZE", 1), start_ticks())) {
        munmap(room, kSlots * sizeof(Slot));
        return false;
    }
    slots = static_cast<Slot*>(room);
    state = 1;
    return true;
}

void note_group(uint64_t id, const char* name, int ranks, int rank) {
    FILE* file = fopen(facts_path, "ae");
    if (file == nullptr) return;
    fprintf(file, "{\"group\": %llu, \"rank\": %d, \"size\": %d, \"name\": \"", static_cast<unsigned long long>(id), rank, ranks);
    for (const char* at = name != nullptr ? name : ""; *at != 0; ++at)
        if (*at == '"' || *at == '\\' || static_cast<unsigned char>(*at) < 0x20) fputc('_', file);
        else fputc(*at, file);
    fputs("\"}\n", file);
    fclose(file);
}

nccl::Result init(void** context, uint64_t id, int* mask, const char* name, int ranks, int rank, nccl::Logger log) {
    if (context == nullptr || mask == nullptr) return 0;
    pthread_mutex_lock(&set_up);
    *context = nullptr;
    const bool there = begin();
    int index = -1;
    for (uint32_t at = 0; there && at < kCommunicators && index < 0; ++at)
        if (get(communicators[at].id) == 0) index = int(at);
    if (index >= 0) {
        Communicator& fresh = communicators[index];
        Frame& frame = ring.frames[index];
        put(fresh.sequence, uint64_t(0)), put(fresh.done, uint64_t(0)), put(fresh.rank, uint32_t(rank));
        const uint32_t generation = get(fresh.generation) + 1;
        put(fresh.generation, generation);
        put(frame.entered, uint64_t(0)), put(frame.done, uint64_t(0)), put(frame.waiting, uint64_t(0)), put(frame.group, id);
        if (get(ring.header->groups) <= uint64_t(index)) put(ring.header->groups, uint64_t(index + 1));
        fresh.id.store(id != 0 ? id : 1, std::memory_order_release);
        *context = reinterpret_cast<void*>(uint64_t(generation) << 16 | uint64_t(index + 1));
        note_group(id, name, ranks, rank);
    }
    // One mask for all communicators: what is not followed must not switch off the others.
    if (there) *mask = int(number("TIGHTWIRE_NCCL_EVENTS", uint32_t(kFullMask)));
    pthread_mutex_unlock(&set_up);
    if (log != nullptr && !there) log(nccl::kLogInfo, nccl::kLogInit, __FILE__, __LINE__, "tightwire: no ring can be made, nothing is recorded");
    return 0;
}
nccl::Result init4(void** context, int* mask, const char* name, uint64_t id, int, int ranks, int rank, nccl::Logger log) {
    return init(context, id, mask, name, ranks, rank, log);
}
nccl::Result init5(void** context, uint64_t id, int* mask, const char* name, int, int ranks, int rank, nccl::Logger log) {
    return init(context, id, mask, name, ranks, rank, log);
}

nccl::Result finalize(void* context) {
    pthread_mutex_lock(&set_up);
    if (const int index = communicator_of(context); index >= 0) {
        put(ring.frames[index].done, get(ring.frames[index].entered));  // a communicator that is destroyed waits for nothing
        communicators[index].id.store(0, std::memory_order_release);
    }
    pthread_mutex_unlock(&set_up);
    return 0;
}

}  // namespace

#define EXPORTED extern "C" __attribute__((visibility("default"))) const
EXPORTED nccl::Profiler4 ncclProfiler_v4 = {"tightwire", init4, start4, stop, record, finalize};
EXPORTED nccl::Profiler5 ncclProfiler_v5 = {"tightwire", init5, start5, stop, record, finalize};
EXPORTED nccl::Profiler5 ncclProfiler_v6 = {"tightwire", init5, start5, stop, record, finalize};
