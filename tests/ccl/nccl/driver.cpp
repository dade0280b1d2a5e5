// Drives the plugin as NCCL does, and as it should not. `driver ABI SCENARIO [COUNT] [THREADS]`; with -DPLUGIN_FILE the plugin comes
// by dlopen from the first argument, otherwise it is linked in (for sanitizers).
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <random>
#include <string>
#include <thread>
#include <vector>

#include "abi.h"

#ifndef PLUGIN_FILE
extern "C" const nccl::Profiler4 ncclProfiler_v4;
extern "C" const nccl::Profiler5 ncclProfiler_v5, ncclProfiler_v6;
#endif

namespace {

struct Plugin {
    const nccl::Profiler4* four = nullptr;
    const nccl::Profiler5* five = nullptr;

    void* init(uint64_t id, int rank, int ranks, int* mask) const {
        void* context = nullptr;
        if (four) four->init(&context, mask, "world", id, 1, ranks, rank, nullptr);
        else five->init(&context, id, mask, "wor\"ld\n", 1, ranks, rank, nullptr);
        return context;
    }
    void* start(void* context, nccl::Description& told, uint64_t type) const {
        void* handle = nullptr;
        // What a version does not write is whatever was on NCCL's stack.
        if (four) told.type5 = 0xA5A5A5A5A5A5A500u, told.type4 = uint8_t(type), four->start(context, &handle, &told);
        else told.type5 = type, five->start(context, &handle, &told);
        return handle;
    }
    void stop(void* handle) const { four ? four->stop(handle) : five->stop(handle); }
    void record(void* handle, int state, nccl::StateArguments* a) const { four ? four->record(handle, state, a) : five->record(handle, state, a); }
    void finalize(void* context) const { four ? four->finalize(context) : five->finalize(context); }
};

nccl::Description fresh(void* parent, int rank) {
    nccl::Description told;
    memset(&told, 0xA5, sizeof told);
    told.parent = parent, told.rank = rank;
    return told;
}

struct Job {
    const Plugin& plugin;
    void* context;
    uint64_t sequence = 0;

    void* collective(const char* function = "AllReduce", int channels = 2, int root = 0, size_t count = 1024) {
        auto told = fresh(nullptr, 0);
        told.collective = {sequence++, function, nullptr, nullptr, count, root, "ncclBfloat16", uint8_t(channels), 16, "RING", "SIMPLE"};
        return plugin.start(context, told, nccl::kCollective);
    }
    void* point_to_point(const char* function, int peer) {
        auto told = fresh(nullptr, 0);
        told.point_to_point = {function, nullptr, "ncclFloat32", 256, peer, 1};
        return plugin.start(context, told, nccl::kPointToPoint);
    }
    void* channel(void* parent, int number, uint64_t at) {
        auto told = fresh(parent, 0);
        told.kernel_channel = {uint8_t(number), at};
        return plugin.start(context, told, nccl::kKernelChannel);
    }
    void end_channel(void* handle, uint64_t at) {
        nccl::StateArguments arguments{.timer_ns = at};
        plugin.record(handle, nccl::kKernelChannelStop, &arguments);
        plugin.stop(handle);
    }
    void* proxy(void* parent, int peer, bool send, pid_t pid = getpid()) {
        auto told = fresh(parent, 0);
        told.proxy_op = {pid, 0, peer, 4, 65536, send};
        return plugin.start(context, told, nccl::kProxyOp);
    }
    void* step(void* parent, int number) {
        auto told = fresh(parent, 0);
        told.proxy_step = {number};
        return plugin.start(context, told, nccl::kProxyStep);
    }
    void end_step(void* handle, bool send, size_t bytes, unsigned wait_us = 0, unsigned peer_us = 0) {
        nccl::StateArguments arguments{.bytes = bytes};
        plugin.record(handle, send ? nccl::kStepSendGpuWait : nccl::kStepRecvWait, nullptr);
        if (peer_us) plugin.record(handle, nccl::kStepSendPeerWait, nullptr), usleep(peer_us);
        plugin.record(handle, send ? nccl::kStepSendWait : nccl::kStepRecvFlushWait, &arguments);
        if (wait_us) usleep(wait_us);
        plugin.stop(handle);
    }
    // One whole collective over the network, ring neighbours 1 (send) and 3 (receive), 4 steps of 64 KiB each.
    void whole(int channels = 2) {
        void* operation = collective("AllReduce", channels);
        std::vector<void*> kernels;
        for (int c = 0; c < channels; ++c) kernels.push_back(channel(operation, c, 1000 + c));
        plugin.stop(operation);
        for (bool send : {true, false}) {
            void* proxied = proxy(operation, send ? 1 : 3, send);
            for (int s = 0; s < 4; ++s) end_step(step(proxied, s), send, 65536);
            plugin.stop(proxied);
        }
        for (int c = 0; c < channels; ++c) end_channel(kernels[c], 6000 + c);
    }
};

void ordinary(const Plugin& plugin, void* context, int count) {
    Job job{plugin, context};
    for (int n = 0; n < count; ++n) job.whole();
    void* sent = job.point_to_point("Send", 1);
    plugin.stop(sent);
    job.end_channel(job.channel(sent, 0, 5), 9);
}

// One of a ring of four. Each line of input, "WAIT PEER", is 10 steps each way, of which those that send wait so many us for the
// network and for the peer.
void ring(const Plugin& plugin, void* context, int rank) {
    Job job{plugin, context};
    unsigned wait_us = 0, peer_us = 0;
    while (scanf("%u %u", &wait_us, &peer_us) == 2) {
        void* operation = job.collective();
        plugin.stop(operation);
        for (bool send : {true, false}) {
            void* proxied = job.proxy(operation, (rank + (send ? 1 : 3)) % 4, send);
            for (int s = 0; s < 10; ++s) job.end_step(job.step(proxied, s), send, 65536, send ? wait_us : 0, send ? peer_us : 0);
            plugin.stop(proxied);
        }
        printf("done\n"), fflush(stdout);
    }
}

// The stop of a collective after all its children; children that end before others begin; parents that stop first.
void orders(const Plugin& plugin, void* context) {
    Job job{plugin, context};
    void* late = job.collective();
    for (int c = 0; c < 2; ++c) job.end_channel(job.channel(late, c, 10), 20);
    plugin.stop(late);
    void* early = job.collective("AllGather");
    plugin.stop(early);
    for (int c = 0; c < 2; ++c) job.end_channel(job.channel(early, c, 10), 0);  // a stop time of zero
    void* network = job.collective("ReduceScatter", 0);
    plugin.stop(network);
    void* proxied = job.proxy(network, 1, true);
    plugin.stop(proxied);
}

// Stops that never come, come twice, or for what never was.
void broken(const Plugin& plugin, void* context, int count) {
    Job job{plugin, context};
    for (int n = 0; n < count; ++n) {
        void* operation = job.collective();
        plugin.stop(operation);
        void* kernel = job.channel(operation, 0, 10);
        if (n % 3 == 0) job.end_channel(kernel, 20), job.end_channel(kernel, 30), plugin.stop(kernel);
        void* proxied = job.proxy(operation, 1, n % 2);
        for (int s = 0; s < 4; ++s) {
            void* step = job.step(proxied, s);
            if ((n + s) % 2) job.end_step(step, true, 4096);
            if (s == 3) plugin.stop(step), job.end_step(step, true, 4096);
        }
        void* orphan = job.step(nullptr, 0);
        job.end_step(orphan, false, 1);
        void* foreign = Job{plugin, reinterpret_cast<void*>(0xDEADBEEF)}.proxy(reinterpret_cast<void*>(0x1234), 2, true, getpid() + 1);
        job.end_step(job.step(foreign, 0), true, 7);
        plugin.stop(foreign);
        for (uint64_t handle : {0ull, 1ull, 2ull, 0xFFFFull, 0x7FFFFFFFFFFFull, 0xFFFFFFFFFFFFFFFFull, 0xDEADBEEF00ull}) {
            plugin.stop(reinterpret_cast<void*>(handle));
            plugin.record(reinterpret_cast<void*>(handle), 9, nullptr);
        }
        Job{plugin, reinterpret_cast<void*>(0x55)}.whole();
        plugin.record(job.step(proxied, 9), 777, nullptr);
    }
    job.whole();  // all before it are done as well
}

void wild(const Plugin& plugin, void* context, int count, unsigned seed) {
    std::mt19937_64 random(seed);
    Job job{plugin, context};
    std::vector<void*> handles{nullptr};
    for (int n = 0; n < count; ++n) {
        void* any = handles[random() % handles.size()];
        void* made = nullptr;
        nccl::StateArguments arguments{.bytes = size_t(random() % 1000)};
        switch (random() % 9) {
            case 0: made = job.collective("AllReduce", int(random() % 4)); break;
            case 1: made = job.channel(any, int(random() % 32), random() % 100); break;
            case 2: made = job.proxy(any, int(random() % 8), random() % 2); break;
            case 3: made = job.step(any, int(random() % 8)); break;
            case 4: made = job.point_to_point(random() % 2 ? "Send" : "Recv", int(random() % 8)); break;
            case 5: plugin.record(any, int(random() % 24), random() % 2 ? &arguments : nullptr); break;
            case 6: any = reinterpret_cast<void*>(random()); [[fallthrough]];
            default: plugin.stop(any);
        }
        if (made != nullptr) {
            if (handles.size() < 256) handles.push_back(made);
            else handles[random() % 256] = made;
        }
    }
}

double seconds() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

}  // namespace

int main(int count, char** values) {
    int at = 1;
#ifdef PLUGIN_FILE
    void* file = dlopen(values[at++], RTLD_NOW | RTLD_LOCAL);
    if (file == nullptr) return fprintf(stderr, "%s\n", dlerror()), 2;
    const auto* four = static_cast<const nccl::Profiler4*>(dlsym(file, "ncclProfiler_v4"));
    const auto* five = static_cast<const nccl::Profiler5*>(dlsym(file, values[at][0] == '5' ? "ncclProfiler_v5" : "ncclProfiler_v6"));
#else
    const auto *four = &ncclProfiler_v4;
    const auto* five = values[at][0] == '5' ? &ncclProfiler_v5 : &ncclProfiler_v6;
#endif
    Plugin plugin;
    if (values[at++][0] == '4') plugin.four = four;
    else plugin.five = five;
    const std::string scenario = at < count ? values[at++] : "ordinary";
    const int times = at < count ? atoi(values[at++]) : 1, threads = at < count ? atoi(values[at++]) : 1;
    int mask = 0;
    const int rank = scenario == "ring" ? atoi(getenv("RANK")) : 0;
    void* context = plugin.init(0xC0FFEE, rank, 4, &mask);
    printf("mask %d\n", mask), fflush(stdout);
    const double begun = seconds();
    if (scenario == "ordinary") ordinary(plugin, context, times);
    if (scenario == "ring") ring(plugin, context, rank);
    if (scenario == "orders") orders(plugin, context);
    if (scenario == "broken") broken(plugin, context, times);
    if (scenario == "wild" || scenario == "busy") {
        std::vector<std::thread> all;
        std::vector<void*> contexts;
        for (int t = 0; t < threads; ++t) contexts.push_back(t % 2 ? context : plugin.init(uint64_t(100 + t), 0, 2, &mask));
        for (int t = 0; t < threads; ++t)
            all.emplace_back([&, t] {
                if (scenario == "wild") wild(plugin, contexts[size_t(t)], times, unsigned(t));
                else for (int n = 0; n < times; ++n) Job{plugin, contexts[size_t(t)]}.whole();
            });
        for (auto& each : all) each.join();
    }
    if (scenario == "communicators")
        for (int n = 0; n < times; ++n) {
            void* other = plugin.init(uint64_t(n + 1), 0, 2, &mask);
            Job{plugin, other}.whole();
            plugin.finalize(other);
            Job{plugin, other}.whole();  // after its end: nothing
            plugin.finalize(other);
        }
    const double spent = seconds() - begun;
    if (scenario == "hang") {  // the last collective never ends
        ordinary(plugin, context, 3);
        Job job{plugin, context};
        void* operation = job.collective();
        plugin.stop(operation);
        void* proxied = job.proxy(operation, 1, true);
        for (int s = 0; s < 3; ++s) job.end_step(job.step(proxied, s), true, 65536);
        plugin.record(job.step(proxied, 3), nccl::kStepSendWait, nullptr);
    }
    if (scenario != "hang") plugin.finalize(context);
    printf("seconds %.9f\n", spent);
    return 0;
}
