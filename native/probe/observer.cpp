#include "observer.h"

#include <torch/csrc/python_headers.h>
#include <pthread.h>
#include <torch/custom_class.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>

namespace tightwire {
namespace {

constexpr uint32_t kNoPeer = 0xFFFFFFFF;
constexpr size_t kSweptInCall = 4, kMaxPending = 1024;
constexpr uint64_t kUnheldNs = 1'000'000'000;  // a send or recv that nobody holds any more will never be waited for
constexpr size_t kOurReferences = 2;           // the table's and that of the copy that is asked
constexpr std::chrono::milliseconds kBusy{5}, kIdle{50};
constexpr auto kKey = c10::DispatchKey::BackendSelect;

// The checksum of zlib.
uint32_t crc32(const std::string& text) {
    static const auto table = [] {
        std::array<uint32_t, 256> made{};
        for (uint32_t byte = 0; byte < 256; ++byte) {
            uint32_t value = byte;
            for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ (value & 1 ? 0xEDB88320u : 0);
            made[byte] = value;
        }
        return made;
    }();
    uint32_t sum = 0xFFFFFFFF;
    for (const unsigned char letter : text) sum = table[(sum ^ letter) & 0xFF] ^ (sum >> 8);
    return ~sum;
}

const at::Tensor* first_tensor(const c10::IValue& value) {
    if (value.isTensor()) return &value.toTensor();
    if (value.isList())
        for (const c10::IValue& each : value.toListRef())
            if (const at::Tensor* found = first_tensor(each)) return found;
    return nullptr;
}

// What the ranks give alike: bytes, and the shapes as Python writes a list of tuples.
struct Measure {
    uint64_t elements = 0;
    const at::Tensor* first = nullptr;
    std::string shapes;

    void add(const c10::IValue& value) {
        if (value.isList()) {
            for (const c10::IValue& each : value.toListRef()) add(each);
        } else if (value.isTensor()) {
            const at::Tensor& tensor = value.toTensor();
            if (first == nullptr) first = &tensor;
            elements += tensor.numel();
            shapes += shapes.empty() ? "(" : ", (";
            for (int64_t at = 0; at < tensor.dim(); ++at) {
                if (at > 0) shapes += ", ";
                shapes += std::to_string(tensor.size(at));
            }
            shapes += tensor.dim() == 1 ? ",)" : ")";
        }
    }
};

const void* address_of(const at::Tensor& tensor) {
    if (!tensor.device().is_cpu() || !tensor.has_storage() || tensor.key_set().has(c10::DispatchKey::Python)) return nullptr;
    return static_cast<const char*>(tensor.storage().data()) + tensor.storage_offset() * tensor.itemsize();
}

// Whoever holds the GIL must not wait for a thread that waits for the GIL.
class WithoutGil {
  public:
    ~WithoutGil() {
        if (saved_ != nullptr) PyEval_RestoreThread(saved_);
    }

  private:
    PyThreadState* saved_ = PyGILState_Check() ? PyEval_SaveThread() : nullptr;
};

bool has_failed(c10d::Work& work) {
    try {
        return work.getFuture()->hasError();
    } catch (...) {  // it has no future
        return false;
    }
}

class Kernel final : public c10::OperatorKernel {
  public:
    Kernel(Observer& observer, Call call) : observer_(observer), call_(std::move(call)) {}

    void operator()(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
        const auto next = keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, kKey);
        std::optional<Pending> pending;
        if (observer_.active()) {
            const c10::IValue* arguments = stack->data() + stack->size() - op.schema().arguments().size();
            const at::Tensor* first = first_tensor(arguments[0]);
            if (first == nullptr || !first->is_meta())  // which only asks what the result would look like
                pending = observer_.enter(call_, arguments, first);
        }
        if (!pending) return op.redispatchBoxed(next, stack);
        try {
            op.redispatchBoxed(next, stack);
        } catch (...) {
            observer_.end(*pending, true);
            throw;
        }
        observer_.entered(std::move(*pending), op.schema().returns().empty() ? nullptr : &stack->back());
    }

  private:
    Observer& observer_;
    const Call call_;
};

// Functional collectives wait by tensor.
class WaitKernel final : public c10::OperatorKernel {
  public:
    explicit WaitKernel(Observer& observer) : observer_(observer) {}

    void operator()(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
        const auto next = keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, kKey);
        const void* address = observer_.active() ? address_of(stack->back().toTensor()) : nullptr;
        const auto pending = address == nullptr ? std::nullopt : observer_.waited_for(address);
        if (!pending) return op.redispatchBoxed(next, stack);
        observer_.begin_wait(*pending);
        try {
            op.redispatchBoxed(next, stack);
        } catch (...) {
            observer_.end_wait(*pending, false);
            throw;
        }
        observer_.end_wait(*pending, true);
    }

  private:
    Observer& observer_;
};

}  // namespace

Observer::Observer(Writer& writer, NewChannel new_channel, std::unordered_map<int, uint32_t> dtypes)
    : writer_(writer), new_channel_(std::move(new_channel)), dtypes_(std::move(dtypes)) {}

void Observer::install(const std::vector<Call>& calls) {
    const auto library = [](const char* name) {
        return std::make_unique<torch::Library>(torch::Library::IMPL, name, kKey, __FILE__, __LINE__);
    };
    calls_ = library("c10d");
    for (const Call& call : calls)
        calls_->impl(call.name.c_str(), torch::CppFunction::makeFromBoxedFunctor(std::make_unique<Kernel>(*this, call)));
    functional_ = library("_c10d_functional");
    functional_->impl("wait_tensor", torch::CppFunction::makeFromBoxedFunctor(std::make_unique<WaitKernel>(*this)));
}

std::optional<Pending> Observer::enter(const Call& call, const c10::IValue* arguments, const at::Tensor* first) try {
    sweep(kSweptInCall);
    const bool on_host = first == nullptr || first->is_cpu();
    const int64_t partner = call.partner_at < 0 ? -1 : arguments[call.partner_at].toInt();
    const int64_t tag = call.tag_at < 0 ? 0 : arguments[call.tag_at].toInt();
    const auto group = arguments[call.group_at].toCustomClass<c10d::ProcessGroup>();
    Channel* channel = this->channel(group, call.direction, partner, tag);
    Measure share;
    if (call.share_at >= 0) share.add(arguments[call.share_at]);
    uint64_t bytes = 0, shape = 0;
    uint32_t dtype = 0;
    const void* address = nullptr;
    if (share.first != nullptr) {
        bytes = share.elements * share.first->itemsize();
        shape = crc32("[" + share.shapes + "]");
        const auto code = dtypes_.find(int(share.first->scalar_type()));
        dtype = code == dtypes_.end() ? 0 : code->second;
        address = address_of(*share.first);
    }
    const uint32_t peer = partner < 0 ? kNoPeer : uint32_t(partner);
    const std::lock_guard lock(mutex_);
    const uint64_t sequence = ++channel->sequence;
    writer_.entered(channel->slot, channel->fingerprint, sequence, call.operation, bytes, dtype, shape, peer);
    return Pending{channel, sequence, now_ns(), call.operation, call.direction != Direction::none, on_host, address, {}};
} catch (const std::exception& error) {
    give_up(error.what());
    return std::nullopt;
}

void Observer::entered(Pending pending, const c10::IValue* result) try {
    if (result == nullptr || result->isNone()) return end(pending, false);  // nothing says when it ends
    pending.work = result->toCustomClass<c10d::Work>();
    if (!pending.work) return end(pending, false);
    std::optional<Pending> given_up;  // works of a kind that never says so, and that nobody waits for
    {
        const std::lock_guard lock(mutex_);
        pending_.push_back(std::move(pending));
        if (pending_.size() > kMaxPending) {
            given_up = std::move(pending_.front());
            pending_.erase(pending_.begin());
        }
    }
    if (given_up) end(*given_up, false);
} catch (const std::exception& error) {
    give_up(error.what());
}

void Observer::end(const Pending& pending, bool failed) {
    writer_.done(pending.channel->slot, pending.channel->fingerprint, pending.sequence, pending.operation, failed);
}

Channel* Observer::known(const Key& key) {
    const std::lock_guard lock(mutex_);
    const auto found = channels_.find(key);
    return found == channels_.end() ? nullptr : found->second.get();
}

Channel* Observer::channel(const GroupPtr& group, Direction direction, int64_t partner, int64_t tag) {
    const bool pair = direction != Direction::none;
    const Key key{group.get(), direction, pair ? partner : -1, pair ? tag : 0};
    if (Channel* found = known(key)) return found;
    const WithoutGil released;
    const std::lock_guard making(making_);
    if (Channel* found = known(key)) return found;
    const auto [slot, fingerprint] = new_channel_(group, direction, partner, tag);
    const std::lock_guard lock(mutex_);
    groups_.try_emplace(group.get(), group);
    return channels_.emplace(key, std::make_unique<Channel>(Channel{slot, fingerprint})).first->second.get();
}

void Observer::sweep(size_t most) {
    std::vector<Pending> asked;
    {
        const std::lock_guard lock(mutex_);
        asked.assign(pending_.begin(), pending_.begin() + std::min(most, pending_.size()));
    }
    for (const Pending& each : asked) ask(each);
}

void Observer::ask(const Pending& pending) {
    bool ended = false, failed = false;
    try {
        ended = pending.work->isCompleted();
        failed = ended && pending.on_host && has_failed(*pending.work);
    } catch (...) {
        ended = failed = true;
    }
    if (!ended && pending.point_to_point && now_ns() - pending.since_ns > kUnheldNs)
        ended = pending.work.use_count() <= kOurReferences;
    if (ended) pop(pending.work.get(), failed);
}

void Observer::pop(const c10d::Work* work, bool failed) {
    std::optional<Pending> found;  // outlives the lock: its work may die with it
    {
        const std::lock_guard lock(mutex_);
        const auto at = std::find_if(pending_.begin(), pending_.end(), [=](auto& p) { return p.work.get() == work; });
        if (at == pending_.end()) return;  // somebody else noted it
        found = std::move(*at);
        pending_.erase(at);
    }
    end(*found, failed);
}

std::optional<Pending> Observer::waited_for(const c10d::Work* work) {
    const std::lock_guard lock(mutex_);
    const auto at = std::find_if(pending_.begin(), pending_.end(), [=](auto& p) { return p.work.get() == work; });
    return at == pending_.end() ? std::nullopt : std::optional(*at);
}

std::optional<Pending> Observer::waited_for(const void* address) {
    const std::lock_guard lock(mutex_);
    const auto at = std::find_if(pending_.rbegin(), pending_.rend(), [=](auto& p) { return p.address == address; });
    return at == pending_.rend() ? std::nullopt : std::optional(*at);
}

void Observer::end_wait(const Pending& pending, bool returned) {
    writer_.waiting(pending.channel->slot, 0);
    if (returned && pending.on_host)
        pop(pending.work.get(), false);
    else
        ask(pending);
}

void Observer::watch() {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);  // signals are the job's
    sweeper_ = std::thread([this] {
        pthread_setname_np(pthread_self(), "tightwire-sweep");
        std::unique_lock lock(mutex_);
        while (!stopping_.wait_for(lock, pending_.empty() ? kIdle : kBusy, [this] { return stop_; })) {
            lock.unlock();
            sweep();
            lock.lock();
        }
    });
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void Observer::stop() {
    if (getpid() != process_) return;  // a forked child has no such thread
    {
        const std::lock_guard lock(mutex_);
        stop_ = true;
    }
    stopping_.notify_all();
    if (sweeper_.joinable()) sweeper_.join();
}

void Observer::disable() { active_.store(false); }

void Observer::give_up(const char* what) {
    disable();
    std::fprintf(stderr, "tightwire: the probe stopped (%s); the job runs on unobserved\n", what);
}

}  // namespace tightwire
