// NCCL's names of functions and datatypes as the codes of core/events.py.
#pragma once
#include <stdint.h>
#include <string.h>

namespace tightwire {

inline bool same(const char* a, const char* b) { return a != nullptr && strcmp(a, b) == 0; }

inline uint32_t operation_code(const char* name) {
    static const struct {
        const char* name;
        uint32_t code;
    } known[] = {{"AllReduce", 1}, {"Broadcast", 2}, {"AllGather", 3},  {"ReduceScatter", 5}, {"AlltoAll", 7}, {"AllToAll", 7},
                 {"Reduce", 10},   {"Gather", 11},   {"Scatter", 12},   {"Send", 13},         {"Recv", 14}};
    for (const auto& each : known)
        if (same(name, each.name)) return each.code;
    return 0;
}

struct Datatype {
    uint16_t code;
    uint8_t bytes;
};
inline Datatype datatype_of(const char* name) {
    static const struct {
        const char* name;
        Datatype type;
    } known[] = {{"Float32", {1, 4}}, {"Bfloat16", {2, 2}}, {"Float16", {3, 2}},      {"Float64", {4, 8}},     {"Int64", {5, 8}},
                 {"Int32", {6, 4}},   {"Int8", {8, 1}},     {"Uint8", {9, 1}},        {"Float8e4m3", {13, 1}}, {"Float8e5m2", {14, 1}},
                 {"Uint32", {0, 4}},  {"Uint64", {0, 8}},   {"Half", {3, 2}},         {"Float", {1, 4}},       {"Double", {4, 8}}};
    if (name != nullptr && strncmp(name, "nccl", 4) == 0) name += 4;
    for (const auto& each : known)
        if (same(name, each.name)) return each.type;
    return {0, 1};
}

}  // namespace tightwire
