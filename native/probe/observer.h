// Sees every call of torch.distributed in the dispatcher and notes it in the ring, without Python and its lock. What it
// notes and when is what tightwire/ccl/probe/{dispatch,works}.py say, its twin in Python.
#pragma once
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/Work.hpp>
#include <torch/library.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "../ring/ring.h"

namespace tightwire {

enum class Direction { none, to, from };

// One operation of the library c10d: where in its arguments the group is, what all ranks give alike, and so on; -1 where
// there is no such argument.
struct Call {
    std::string name;
    uint32_t operation;
    int group_at, share_at, partner_at, tag_at;
    Direction direction;
};

struct Channel {
    int slot;
    uint64_t fingerprint, sequence = 0;
};

using WorkPtr = c10::intrusive_ptr<c10d::Work>;
using GroupPtr = c10::intrusive_ptr<c10d::ProcessGroup>;

// One operation that was entered and is not known to have ended.
struct Pending {
    Channel* channel;
    uint64_t sequence, since_ns;
    uint32_t operation;
    bool point_to_point, on_host;
    const void* address;  // of its first tensor
    WorkPtr work;
};

class Observer {
  public:
    // (slot, fingerprint) of a new channel: of a group, or of its pair with `partner`.
    using NewChannel = std::function<std::pair<int, uint64_t>(const GroupPtr&, Direction, int64_t partner, int64_t tag)>;

    Observer(Writer& writer, NewChannel new_channel, std::unordered_map<int, uint32_t> dtypes);
    void install(const std::vector<Call>& calls);
    void watch();    // from now on, a thread asks what has ended
    void stop();     // that thread, before the process ends
    void disable();  // in a forked child: touches no lock
    bool active() const { return active_.load(std::memory_order_relaxed); }

    std::optional<Pending> enter(const Call& call, const c10::IValue* arguments, const at::Tensor* first);
    void entered(Pending pending, const c10::IValue* result);
    void end(const Pending& pending, bool failed);
    void sweep(size_t most = SIZE_MAX);

    // Around a wait for `work`, or for the operation on the tensor at `address`.
    std::optional<Pending> waited_for(const c10d::Work* work);
    std::optional<Pending> waited_for(const void* address);
    void begin_wait(const Pending& pending) { writer_.waiting(pending.channel->slot, pending.sequence); }
    void end_wait(const Pending& pending, bool returned);

  private:
    using Key = std::tuple<const c10d::ProcessGroup*, Direction, int64_t, int64_t>;

    Channel* channel(const GroupPtr& group, Direction direction, int64_t partner, int64_t tag);
    Channel* known(const Key& key);
    void ask(const Pending& pending);
    void pop(const c10d::Work* work, bool failed);
    void give_up(const char* what);

    Writer& writer_;
    const NewChannel new_channel_;
    const std::unordered_map<int, uint32_t> dtypes_;
    std::unique_ptr<torch::Library> calls_, functional_;
    std::atomic<bool> active_{true};
    std::mutex mutex_, making_;  // never held while torch or Python is called, but for `making_` while a channel is made
    std::map<Key, std::unique_ptr<Channel>> channels_;
    // Weak: holds no group back, and keeps its address from being given to another one.
    std::map<const c10d::ProcessGroup*, c10::weak_intrusive_ptr<c10d::ProcessGroup>> groups_;
    std::vector<Pending> pending_;  // oldest first
    std::thread sweeper_;
    std::condition_variable stopping_;
    const pid_t process_ = getpid();
    bool stop_ = false;
};

}  // namespace tightwire
