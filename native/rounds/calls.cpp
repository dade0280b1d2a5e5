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
    std::array<uint32_t, 4> ends_{};  // of calls that were under way at once
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

// The same byte of all `count` rows stands together, in the order of `Call`.
template <class T> uint8_t* scatter(uint8_t* to, size_t count, T value) {
    for (size_t byte = 0; byte < sizeof(T); ++byte, to += count) *to = static_cast<uint8_t>(value >> 8 * byte);
    return to;
}

template <class T> const uint8_t* gather(const uint8_t* from, size_t count, T& value) {
    uint32_t whole = 0;
    for (size_t byte = 0; byte < sizeof(T); ++byte, from += count) whole |= uint32_t{*from} << 8 * byte;
    value = static_cast<T>(whole);
    return from;
}

// `visit` each column of a row.
void columns(auto& call, auto visit) {
    visit(call.sequence);
    visit(call.entered_us);
    visit(call.ended_us);
    visit(call.own_us);
    visit(call.kind);
    visit(call.frame);
    visit(call.failed);
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
            columns(told, [&, at = to](auto value) mutable { at = scatter(at, count, value); });
        }
    });
}

nb::bytes restore(nb::bytes shrunk) {
    return mapped(shrunk, [](const uint8_t* from, uint8_t* to, size_t count) {
        Expected expected;
        for (const uint8_t* end = from + count; from < end; ++from, to += sizeof(Call)) {
            Call call;
            columns(call, [&, at = from](auto& value) mutable { at = gather(at, count, value); });
            call.sequence = expected.sequence(call.frame) + unfolded(call.sequence);
            call.entered_us = expected.entered_us() - unfolded(call.entered_us);
            call.ended_us = call.entered_us - call.ended_us;
            call.own_us = expected.own_us(call.entered_us) + unfolded(call.own_us);
            expected.note(call);
            std::memcpy(to, &call, sizeof(Call));
        }
    });
}

bool fit(nb::bytes calls, const std::vector<uint32_t>& counts, const std::vector<uint32_t>& frames, size_t kinds) {
    const char* at = calls.c_str();
    size_t left = calls.size() / sizeof(Call);
    if (calls.size() % sizeof(Call) || frames.size() != counts.size()) return false;
    for (size_t rank = 0; rank < counts.size(); ++rank) {
        if (counts[rank] > left) return false;
        left -= counts[rank];
        for (const char* end = at + counts[rank] * sizeof(Call); at < end; at += sizeof(Call)) {
            Call call;
            std::memcpy(&call, at, sizeof(Call));
            if (call.frame >= frames[rank] || call.kind >= kinds) return false;
        }
    }
    return left == 0;
}
