"""One table of kernels: `native` (C++, chosen by processor) and `reference` (numpy), equal bit for bit by test."""
