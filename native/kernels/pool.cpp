#include "pool.h"

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace tightwire {
namespace {

struct Batch {
    const std::function<void(size_t)>& task;
    const size_t tasks;
    std::atomic<size_t> next{0};
    void work() {
        for (size_t i; (i = next.fetch_add(1)) < tasks;) task(i);
    }
};

class Pool {
public:
    explicit Pool(int helpers) {
        for (int i = 0; i < helpers; ++i) threads_.emplace_back([this] { help(); });
    }
    ~Pool() {
        {
            std::lock_guard lock(mutex_);
            stop_ = true;
        }
        wake_.notify_all();
        for (auto& thread : threads_) thread.join();
    }
    void run(Batch& batch) {
        {
            std::lock_guard lock(mutex_);
            batch_ = &batch;
            ++round_;
        }
        wake_.notify_all();
        batch.work();
        std::unique_lock lock(mutex_);
        batch_ = nullptr;  // who has not come yet need not come
        done_.wait(lock, [this] { return busy_ == 0; });
    }

private:
    void help() {
        size_t seen = 0;
        std::unique_lock lock(mutex_);
        while (true) {
            wake_.wait(lock, [&] { return stop_ || (batch_ && round_ != seen); });
            if (stop_) return;
            seen = round_;
            Batch* batch = batch_;
            ++busy_;
            lock.unlock();
            batch->work();
            lock.lock();
            if (--busy_ == 0) done_.notify_all();
        }
    }
    std::mutex mutex_;
    std::condition_variable wake_, done_;
    std::vector<std::thread> threads_;
    Batch* batch_ = nullptr;
    size_t round_ = 0;
    int busy_ = 0;
    bool stop_ = false;
};

std::mutex use;  // one batch at a time; who finds the pool taken works alone
std::unique_ptr<Pool> pool;
std::atomic<int> size{1};

// The threads do not exist in a forked child, and the pool must not be touched there.
[[maybe_unused]] const int at_fork = pthread_atfork(nullptr, nullptr, [] {
    (void)pool.release();
    new (&use) std::mutex;
    size = 1;
});

}  // namespace

void set_threads(int threads) {
    std::lock_guard lock(use);
    pool.reset();
    size = threads < 1 ? 1 : threads;
    if (size > 1) pool = std::make_unique<Pool>(size - 1);
}

int threads() { return size; }

void parallel(size_t tasks, const std::function<void(size_t)>& task) {
    Batch batch{task, tasks};
    std::unique_lock lock(use, std::try_to_lock);
    if (tasks > 1 && lock.owns_lock() && pool) pool->run(batch);
    else batch.work();
}

}  // namespace tightwire
