// The interface by which NCCL calls a profiler plugin, versions 4, 5 and 6, written from its documentation.
// Only what is read here has a name; static_asserts hold the places of all fields.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

namespace nccl {

using Result = int;  // 0 is success
using Logger = void (*)(int level, unsigned long flags, const char* file, int line, const char* format, ...);
constexpr int kLogInfo = 3;
constexpr unsigned long kLogInit = 1;

// Bits of the activation mask; the type of an event is its bit.
enum Event : uint64_t {
    kGroup = 1 << 0,
    kCollective = 1 << 1,
    kPointToPoint = 1 << 2,
    kProxyOp = 1 << 3,
    kProxyStep = 1 << 4,
    kProxyControl = 1 << 5,
    kKernelChannel = 1 << 6,
};

enum State : int {
    kStepSendGpuWait = 8,
    kStepSendWait = 9,
    kStepRecvWait = 10,
    kStepRecvFlushWait = 11,
    kStepRecvGpuWait = 12,
    kStepSendPeerWait = 20,
    kKernelChannelStop = 22,
};

struct Collective {
    uint64_t sequence;  // counted for each function of a communicator
    const char* function;
    const void* send;
    void* receive;
    size_t count;
    int root;
    const char* datatype;
    uint8_t channels, warps;
    const char *algorithm, *protocol;
};
struct PointToPoint {
    const char* function;
    void* buffer;
    const char* datatype;
    size_t count;
    int peer;
    uint8_t channels;
};
struct ProxyOp {
    pid_t pid;  // of the process whose operation it is: not always this one
    uint8_t channel;
    int peer, steps, chunk_bytes, is_send;
};
struct ProxyStep {
    int step;
};
struct KernelChannel {
    uint8_t channel;
    uint64_t timer_ns;  // of the GPU
};

// What the three versions have in common: the type is one byte in version 4 and eight later, at the same place.
struct Description {
    union {
        uint8_t type4;
        uint64_t type5;
    };
    void* parent;
    int rank;
    union {
        Collective collective;
        PointToPoint point_to_point;
        ProxyOp proxy_op;
        ProxyStep proxy_step;
        KernelChannel kernel_channel;
    };
};
static_assert(offsetof(Description, parent) == 8 && offsetof(Description, rank) == 16);
static_assert(offsetof(Description, collective) == 24 && offsetof(Description, proxy_op) == 24);
static_assert(offsetof(Collective, count) == 32 && offsetof(Collective, root) == 40);
static_assert(offsetof(Collective, datatype) == 48 && offsetof(Collective, channels) == 56);
static_assert(offsetof(Collective, algorithm) == 64 && sizeof(Collective) == 80);
static_assert(offsetof(PointToPoint, count) == 24 && offsetof(PointToPoint, peer) == 32);
static_assert(offsetof(ProxyOp, channel) == 4 && offsetof(ProxyOp, peer) == 8 && offsetof(ProxyOp, is_send) == 20);
static_assert(offsetof(KernelChannel, timer_ns) == 8);

union StateArguments {
    size_t bytes;       // of a proxy step
    uint64_t timer_ns;  // of a kernel channel
};

struct Profiler4 {
    const char* name;
    Result (*init)(void** context, int* mask, const char* name, uint64_t id, int nodes, int ranks, int rank, Logger log);
    Result (*start)(void* context, void** handle, Description* description);
    Result (*stop)(void* handle);
    Result (*record)(void* handle, int state, StateArguments* arguments);
    Result (*finalize)(void* context);
};
struct Profiler5 {  // and 6
    const char* name;
    Result (*init)(void** context, uint64_t id, int* mask, const char* name, int nodes, int ranks, int rank, Logger log);
    Result (*start)(void* context, void** handle, Description* description);
    Result (*stop)(void* handle);
    Result (*record)(void* handle, int state, StateArguments* arguments);
    Result (*finalize)(void* context);
};
static_assert(sizeof(Profiler4) == 48 && sizeof(Profiler5) == 48);

}  // namespace nccl
