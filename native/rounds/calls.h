// A row of digest.CALL, and how calls are laid out on the wire.
#pragma once

#include <nanobind/nanobind.h>

#include <cstddef>
#include <cstdint>
#include <vector>

constexpr uint32_t UNKNOWN = 0xFFFFFFFF;

struct Call {
    uint32_t sequence, entered_us, ended_us, own_us;
    uint16_t kind;
    uint8_t frame, failed;
};
static_assert(sizeof(Call) == 20);

// Rows of `Call`, rank by rank, as differences from what is to be expected, byte by byte; and back. As many bytes as
// before, whatever they are, but most of them 0. A part of a row stays as it is.
nanobind::bytes shrink(nanobind::bytes calls);
nanobind::bytes restore(nanobind::bytes shrunk);

// Whether these are as many calls as the ranks have, each of one of its rank's frames and one of the kinds.
bool fit(nanobind::bytes calls, const std::vector<uint32_t>& counts, const std::vector<uint32_t>& frames, size_t kinds);
