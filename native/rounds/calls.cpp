#include "calls.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace nb = nanobind;

namespace {

// What is to be expected of the next call: a group's operations follow each other, and a rank's own work began when it
// last entered or ended a call.
class Expected {
public:
    uint32_t sequence(uint8_t frame) const { return sequences_[frame] + 1; }
    uint32_t entered_us() const { return entered_us_; }

    uint32_t own_us(uint32_t entered_us) const {  // times are told backwards: the smallest that is not less
        uint32_t least = entered_us_ - entered_us;
        for (const uint32_t end_us : ends_) least = std::min(least, end_us - entered_us);
        return least >> 31 ? 0 : least;
    }

    void note(const Call& call) {
        sequences_[call.frame] = call.sequence;
        entered_us_ = call.entered_us;
        ends_[next_++ % ends_.size()] = call.ended_us;
    }

private:
    std::array<uint32_t, 256> sequences_{};
    std::array<uint32_t, 8> ends_{};  // of calls that were under way at once
    uint32_t entered_us_ = 0, next_ = 0;
};

uint32_t folded(uint32_t difference) { return difference << 1 ^ (0 - (difference >> 31)); }
uint32_t unfolded(uint32_t folded) { return folded >> 1 ^ (0 - (folded & 1)); }

nb::bytes mapped(const nb::bytes& given, auto rows) {
    const size_t size = given.size(), count = size / sizeof(Call), whole = count * sizeof(Call);
    nb::bytes made = nb::steal<nb::bytes>(PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(size)));
    if (!made.is_valid()) throw nb::python_error();
    const auto* from = reinterpret_cast<const uint8_t*>(given.c_str());
    auto* to = reinterpret_cast<uint8_t*>(PyBytes_AS_STRING(made.ptr()));
    std::memcpy(to + whole, from + whole, size - whole);
    rows(from, to, count);
    return made;
}

// Byte `plane` of all `count` rows stand together.
void scatter(uint8_t* to, size_t count, const Call& call) {
    uint8_t row[sizeof(Call)];
    std::memcpy(row, &call, sizeof(Call));
    for (size_t plane = 0; plane < sizeof(Call); ++plane) to[plane * count] = row[plane];
}

Call gather(const uint8_t* from, size_t count) {
    uint8_t row[sizeof(Call)];
    for (size_t plane = 0; plane < sizeof(Call); ++plane) row[plane] = from[plane * count];
    Call call;
    std::memcpy(&call, row, sizeof(Call));
    return call;
}

}  // namespace

nb::bytes shrink(nb::bytes calls) {
    return mapped(calls, [](const uint8_t* from, uint8_t* to, size_t count) {
        Expected expected;
        for (const uint8_t* end = to + count; to < end; from += sizeof(Call), ++to) {
            Call call;
            std::memcpy(&call, from, sizeof(Call));
            Call told = call;
            told.sequence = folded(call.sequence - expected.sequence(call.frame));
            told.entered_us = folded(expected.entered_us() - call.entered_us);
            told.ended_us = call.entered_us - call.ended_us;
            told.own_us = folded(call.own_us - expected.own_us(call.entered_us));
            expected.note(call);
            scatter(to, count, told);
        }
    });
}

nb::bytes restore(nb::bytes shrunk) {
    return mapped(shrunk, [](const uint8_t* from, uint8_t* to, size_t count) {
        Expected expected;
        for (const uint8_t* end = from + count; from < end; ++from, to += sizeof(Call)) {
            Call call = gather(from, count);
            call.sequence = expected.sequence(call.frame) + unfolded(call.sequence);
            call.entered_us = expected.entered_us() - unfolded(call.entered_us);
            call.ended_us = call.entered_us - call.ended_us;
            call.own_us = expected.own_us(call.entered_us) + unfolded(call.own_us);
            expected.note(call);
            std::memcpy(to, &call, sizeof(Call));
        }
    });
}
