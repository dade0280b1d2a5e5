// Python module tightwire._rounds: calls, as they are in digests, to and from the wire (calls.cpp) and into the cells of
// their rounds. See ccl/rounds.py for what the tables are.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <utility>
#include <vector>

#include "calls.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <class T> using Column = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T> using Table = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

struct Cell {  // a row of rounds.CELL
    double entered, ended;
    float own;
    uint32_t kind;
};
static_assert(sizeof(Cell) == 24);

constexpr uint32_t FAILED = 1u << 31;

void require(bool condition, const char* message) {
    if (!condition) throw std::invalid_argument(message);
}
constexpr size_t AHEAD = 24;  // calls: the tables are larger than the caches

struct Place {
    int64_t round, cell;  // indexes into the tables; -1: the call is of no group that is known
};

// Adds `calls`, rank by rank, and returns (group, sequence) where a call turned out not to be comparable with the first
// one of its round.
std::vector<std::pair<int64_t, int64_t>> take(
    Column<const uint8_t> calls, Column<const uint32_t> counts, Column<const double> at_s, Column<const int64_t> first_frame,
    Column<const int64_t> first_kind, Column<const uint32_t> kinds, Column<const int64_t> slots, Column<const uint8_t> known,
    Column<const int64_t> group_of, Column<const uint8_t> pair, Column<const uint64_t> of_group, Column<const uint64_t> of_pair,
    Table<uint32_t> newest, Table<uint32_t> ended, Table<uint8_t> unread, Table<uint32_t> first, Table<uint32_t> marks,
    nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu> cells) {
    const size_t ranks = counts.shape(0), count = calls.shape(0) / sizeof(Call), columns = newest.shape(1);
    const size_t groups = newest.shape(0), places = groups * columns;
    require(calls.shape(0) % sizeof(Call) == 0, "a part of a call");
    require(at_s.shape(0) == ranks && first_frame.shape(0) == ranks && first_kind.shape(0) == ranks,
            "at_s, first_frame and first_kind must be [ranks]");
    require(columns && (columns & (columns - 1)) == 0, "columns must be a power of two");
    require(known.shape(0) == slots.shape(0), "known must be [frames]");
    require(pair.shape(0) == groups && of_pair.shape(0) == of_group.shape(0), "pair must be [groups], of_pair like of_group");
    for (const auto* each : {&ended, &first})
        require(each->shape(0) == groups && each->shape(1) == columns, "tables of rounds must have one shape");
    require(unread.shape(0) == groups && unread.shape(1) == columns, "unread must be [groups, columns]");
    require(marks.shape(0) == group_of.shape(0) && marks.shape(1) == columns, "marks must be [slots, columns]");
    require(cells.shape(0) == marks.shape(0) * columns * sizeof(Cell), "cells must be [slots, columns]");

    const auto row = [&](size_t i) {
        Call call;
        std::memcpy(&call, calls.data() + i * sizeof(Call), sizeof(Call));
        return call;
    };
    std::vector<Place> at(count);
    std::vector<uint32_t> kind(count);
    size_t i = 0;
    for (size_t rank = 0; rank < ranks; ++rank) {
        for (uint32_t left = counts.data()[rank]; left; --left, ++i) {
            require(i < count, "fewer calls than the ranks have");
            const Call call = row(i);
            const uint64_t frame = uint64_t(first_frame.data()[rank]) + call.frame;
            const uint64_t told = uint64_t(first_kind.data()[rank]) + call.kind;
            require(frame < slots.shape(0) && told < kinds.shape(0), "a call of a kind or frame that is not there");
            kind[i] = kinds.data()[told];
            require(kind[i] < of_group.shape(0), "a kind that is not there");
            at[i].round = -1;
            if (!known.data()[frame] || call.sequence == 0) continue;
            const uint64_t slot = uint64_t(slots.data()[frame]);
            require(slot < group_of.shape(0), "a slot that is not there");
            const uint64_t column = call.sequence & (columns - 1);
            const uint64_t round = uint64_t(group_of.data()[slot]) * columns + column;
            require(round < places, "a group that is not there");
            at[i] = {int64_t(round), int64_t(slot * columns + column)};
        }
    }
    require(i == count, "more calls than the ranks have");

    for (i = 0; i < count; ++i) {
        if (const Place* ahead = i + AHEAD < count ? &at[i + AHEAD] : nullptr; ahead && ahead->round >= 0)
            for (const auto* table : {&newest, &ended, &first}) __builtin_prefetch(table->data() + ahead->round, 1);
        const int64_t round = at[i].round;
        const uint32_t sequence = row(i).sequence;
        if (round < 0 || sequence <= newest.data()[round]) continue;
        newest.data()[round] = sequence;
        ended.data()[round] = 0;
        first.data()[round] = kind[i];
    }

    std::vector<std::pair<int64_t, int64_t>> mixed;
    i = 0;
    for (size_t rank = 0; rank < ranks; ++rank) {
        const double now_s = at_s.data()[rank];
        for (uint32_t left = counts.data()[rank]; left; --left, ++i) {
            if (const Place* ahead = i + AHEAD < count ? &at[i + AHEAD] : nullptr; ahead && ahead->round >= 0) {
                __builtin_prefetch(newest.data() + ahead->round);
                __builtin_prefetch(marks.data() + ahead->cell, 1);
                __builtin_prefetch(cells.data() + ahead->cell * sizeof(Cell), 1);
            }
            const Call call = row(i);
            const int64_t round = at[i].round;
            if (round < 0 || call.sequence != newest.data()[round]) continue;
            const uint32_t mark = call.sequence * 2, before = marks.data()[at[i].cell];
            if (before == mark + 1) continue;  // what has ended stays as it is
            if (kind[i] != first.data()[round] && before != mark) {
                const int64_t group = round / int64_t(columns);
                const auto& comparable = pair.data()[group] ? of_pair : of_group;
                if (comparable.data()[kind[i]] != comparable.data()[first.data()[round]])
                    mixed.emplace_back(group, call.sequence);
            }
            const bool over = call.ended_us != UNKNOWN;
            const Cell cell{now_s - call.entered_us * 1e-6,
                            over ? now_s - call.ended_us * 1e-6 : std::numeric_limits<double>::quiet_NaN(),
                            call.own_us == UNKNOWN ? std::numeric_limits<float>::quiet_NaN() : float(call.own_us * 1e-6),
                            kind[i] | (call.failed ? FAILED : 0)};
            std::memcpy(cells.data() + at[i].cell * sizeof(Cell), &cell, sizeof(Cell));
            marks.data()[at[i].cell] = mark + over;
            if (over) {
                ++ended.data()[round];
                unread.data()[round] = 1;
            }
        }
    }
    return mixed;
}

// The lower median of those of `count` values that are numbers; NaN where none is. `room` is used.
double low_median(const double* values, size_t count, std::vector<double>& room) {
    room.clear();
    for (size_t i = 0; i < count; ++i)
        if (!std::isnan(values[i])) room.push_back(values[i]);
    if (room.empty()) return std::numeric_limits<double>::quiet_NaN();
    const auto middle = room.begin() + std::ptrdiff_t((room.size() - 1) / 2);
    std::nth_element(room.begin(), middle, room.end());
    return *middle;
}

// Of rounds [R], by their groups, columns and sequence numbers: what each member [M] did, a round's one after the other from
// `starts` on, and of each round [R] the last entry, the first and the last end, and a kind of its calls. Times are less
// their rank's `lead`; NaN (and 0 of `own` and `late`) of who is not known in a round.
void times(Column<const uint8_t> cells, Table<const uint32_t> marks, Column<const int64_t> rank_of, Column<const int64_t> base,
           Column<const int64_t> size, Column<const int64_t> group, Column<const int64_t> column, Column<const int64_t> sequence,
           Column<const int64_t> starts, Column<const double> lead, Column<int64_t> round, Column<int64_t> slot, Column<int64_t> rank,
           Column<double> entered, Column<double> ended, Column<double> own, Column<double> late, Column<double> begin,
           Column<double> first, Column<double> last, Column<uint32_t> kind) {
    const size_t rounds = group.shape(0), members = rank.shape(0), columns = marks.shape(1), slots = marks.shape(0);
    for (const auto* each : {&column, &sequence, &starts}) require(each->shape(0) == rounds, "column, sequence and starts must be [rounds]");
    for (const auto* each : {&begin, &first, &last}) require(each->shape(0) == rounds, "begin, first and last must be [rounds]");
    for (const auto* each : {&entered, &ended, &own, &late}) require(each->shape(0) == members, "times must be [members]");
    require(kind.shape(0) == rounds && round.shape(0) == members && slot.shape(0) == members, "kind must be [rounds], round and slot [members]");
    require(rank_of.shape(0) == slots && base.shape(0) == size.shape(0), "rank_of must be [slots], base like size");
    require(cells.shape(0) == slots * columns * sizeof(Cell), "cells must be [slots, columns]");
    constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
    size_t m = 0;
    for (size_t r = 0; r < rounds; ++r) {  // all places first: the tables are larger than the caches
        require(uint64_t(group.data()[r]) < size.shape(0) && uint64_t(column.data()[r]) < columns, "a round that is not there");
        require(uint64_t(starts.data()[r]) == m, "starts must be where each round's members begin");
        const int64_t count = size.data()[group.data()[r]], from = base.data()[group.data()[r]];
        require(count >= 0 && from >= 0 && uint64_t(count) <= members - m && uint64_t(from + count) <= slots, "members that are not there");
        for (int64_t i = 0; i < count; ++i, ++m) {
            round.data()[m] = int64_t(r);
            slot.data()[m] = from + i;
            rank.data()[m] = rank_of.data()[from + i];
            require(uint64_t(rank.data()[m]) < lead.shape(0), "a rank without a lead");
        }
    }
    require(m == members, "more members than the rounds have");
    const auto place = [&](size_t i) { return size_t(slot.data()[i]) * columns + size_t(column.data()[round.data()[i]]); };
    std::vector<double> room;
    m = 0;
    for (size_t r = 0; r < rounds; ++r) {
        double latest = kNone, first_end = kNone, last_end = kNone;
        uint32_t called = 0;
        const size_t from = m;
        for (; m < members && size_t(round.data()[m]) == r; ++m) {
            if (m + AHEAD < members) {
                __builtin_prefetch(marks.data() + place(m + AHEAD));
                __builtin_prefetch(cells.data() + place(m + AHEAD) * sizeof(Cell));
            }
            entered.data()[m] = ended.data()[m] = kNone;
            own.data()[m] = 0;
            if (marks.data()[place(m)] / 2 != uint64_t(sequence.data()[r])) continue;
            Cell cell;
            std::memcpy(&cell, cells.data() + place(m) * sizeof(Cell), sizeof(Cell));
            const double ahead_s = lead.data()[rank.data()[m]];
            entered.data()[m] = cell.entered - ahead_s;
            ended.data()[m] = cell.ended - ahead_s;
            if (!std::isnan(cell.own)) own.data()[m] = cell.own;
            latest = std::fmax(latest, entered.data()[m]);
            first_end = std::fmin(first_end, ended.data()[m]);
            last_end = std::fmax(last_end, ended.data()[m]);
            called = cell.kind;
        }
        const double usual = low_median(entered.data() + from, m - from, room);
        for (size_t i = from; i < m; ++i) late.data()[i] = std::fmin(std::fmax(entered.data()[i] - usual, 0.0), own.data()[i]);
        begin.data()[r] = latest;
        first.data()[r] = first_end;
        last.data()[r] = last_end;
        kind.data()[r] = called;
    }
}

}  // namespace

NB_MODULE(_rounds, m) {
    m.doc() = "What is done for every call: to and from the wire, into the cells of their rounds, and out of them.";
    m.def("shrink", &shrink, "calls"_a);
    m.def("restore", &restore, "shrunk"_a);
    m.def("fit", &fit, "calls"_a, "counts"_a, "frames"_a, "kinds"_a);
    m.def("take", &take, "calls"_a, "counts"_a, "at_s"_a, "first_frame"_a, "first_kind"_a, "kinds"_a, "slots"_a, "known"_a,
          "group_of"_a, "pair"_a, "of_group"_a, "of_pair"_a, "newest"_a, "ended"_a, "unread"_a, "first"_a, "marks"_a,
          "cells"_a);
    m.def("times", &times, "cells"_a, "marks"_a, "rank_of"_a, "base"_a, "size"_a, "group"_a, "column"_a, "sequence"_a, "starts"_a,
          "lead"_a, "round"_a, "slot"_a, "rank"_a, "entered"_a, "ended"_a, "own"_a, "late"_a, "begin"_a, "first"_a, "last"_a, "kind"_a);
}
