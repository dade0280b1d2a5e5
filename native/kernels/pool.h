// A small pool of threads: `parallel(n, f)` calls f(0) … f(n-1), each once, the caller taking part.
#pragma once
#include <cstddef>
#include <functional>

namespace tightwire {

void set_threads(int threads);  // 1: none but the caller
int threads();
void parallel(size_t tasks, const std::function<void(size_t)>& task);

}  // namespace tightwire
