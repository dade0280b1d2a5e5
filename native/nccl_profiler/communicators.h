// The communicators of this process, in a fixed table; a context that NCCL is given is a place in it with its generation.
#pragma once
#include "ring.h"

namespace tightwire {

constexpr uint32_t kCommunicators = kFrames;

struct Communicator {
    U64 id;  // 0: not in use
    U64 sequence, done;
    U32 rank, generation;
};
inline Communicator communicators[kCommunicators];

// The place of a context in `communicators`; -1 for what is none of ours.
inline int communicator_of(const void* context) {
    const uint64_t value = reinterpret_cast<uint64_t>(context), index = (value & 0xFFFF) - 1;
    if ((value & 0xFFFF) == 0 || index >= kCommunicators || value >> 48 != 0) return -1;
    const Communicator& found = communicators[index];
    return get(found.id) != 0 && get(found.generation) == uint32_t(value >> 16) ? int(index) : -1;
}

// As a slot keeps it; its place again, -1 when it was finalized meanwhile.
inline uint32_t kept(int index) { return get(communicators[index].generation) << 8 | uint32_t(index); }
inline int place(uint32_t kept) {
    const Communicator& found = communicators[kept & 0xFF];
    return get(found.id) != 0 && (get(found.generation) & 0xFFFFFF) == kept >> 8 ? int(kept & 0xFF) : -1;
}
static_assert(kCommunicators <= 256);

}  // namespace tightwire
