// The events that NCCL has open, in a fixed table. A handle is a slot's number with its generation: one that is stale, stopped
// twice or of another process is known as such, and no pointer that NCCL gives back is followed.
#pragma once
#include "ring.h"

namespace tightwire {

constexpr uint32_t kSlots = 1 << 15, kTries = 8;
inline void* const kNothing = reinterpret_cast<void*>(1);  // of events that are not followed; NCCL wants a handle for their children

enum Type : uint8_t { kFree, kFilling, kOperation, kProxy, kStep, kChannel };

struct Slot {
    U64 tag;     // generation << 8 | Type
    U64 parent;  // a handle
    U32 communicator, op, peer, channels;  // the first: generation << 8 | place
    U64 sequence, transfer;  // of a proxy operation and its steps: the address of its counters
    U64 progress;            // of an operation; of a step: its bytes
    U64 since_ns;            // of a channel: the GPU's clock at its start; of an operation: the longest channel so far
};
static_assert(sizeof(Slot) == 64);

inline Slot* slots = nullptr;  // [kSlots], once there is a ring
inline U32 next_slot{0};
inline U64 lost{0};

// A slot and the tag that it had when it was found: it may be given to another at any time.
struct Held {
    Slot* slot;
    uint64_t tag;
    explicit operator bool() const { return slot != nullptr; }
    bool still() const { return slot->tag.load(std::memory_order_acquire) == tag; }
    Type type() const { return Type(tag & 0xFF); }
};

inline void* handle_of(uint32_t index, uint64_t tag) { return reinterpret_cast<void*>((tag >> 8 & 0xFFFFFFFF) << 16 | (index + 2)); }

inline Held find(const void* handle) {
    const uint64_t value = reinterpret_cast<uint64_t>(handle), index = (value & 0xFFFF) - 2;
    if (value >> 48 != 0 || (value & 0xFFFF) < 2 || index >= kSlots || slots == nullptr) return {nullptr, 0};
    const uint64_t tag = slots[index].tag.load(std::memory_order_acquire);
    if ((tag & 0xFF) < kOperation || (tag >> 8 & 0xFFFFFFFF) != value >> 16) return {nullptr, 0};
    return {&slots[index], tag};
}

// A slot of our own until `ready`. The next in turn that is free; if none is near, the one in turn: its stop was lost.
inline Held take() {
    uint32_t at = next_slot.fetch_add(1, std::memory_order_relaxed) % kSlots;
    for (uint32_t tries = 0; tries < 2 * kTries; ++tries, at = (at + 1) % kSlots) {
        Slot& slot = slots[at];
        uint64_t tag = slot.tag.load(std::memory_order_relaxed);
        const Type type = Type(tag & 0xFF);
        if (type == kFilling || (type != kFree && tries < kTries)) continue;
        const uint64_t ours = ((tag >> 8) + 1) << 8 | kFilling;
        if (!slot.tag.compare_exchange_strong(tag, ours, std::memory_order_acq_rel)) continue;
        if (type != kFree) lost.fetch_add(1, std::memory_order_relaxed);
        return {&slot, ours};
    }
    lost.fetch_add(1, std::memory_order_relaxed);
    return {nullptr, 0};
}

inline void* ready(Held& held, Type type) {
    held.tag = (held.tag & ~uint64_t(0xFF)) | type;
    held.slot->tag.store(held.tag, std::memory_order_release);
    return handle_of(uint32_t(held.slot - slots), held.tag);
}

inline void release(const Held& held) {
    uint64_t tag = held.tag;
    held.slot->tag.compare_exchange_strong(tag, (held.tag & ~uint64_t(0xFF)) | kFree, std::memory_order_acq_rel);
}

}  // namespace tightwire
