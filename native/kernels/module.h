// What the parts of the Python module share.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <stdexcept>
#include <string>

#include "kernels.h"

namespace tightwire {

namespace nb = nanobind;

template <class T, size_t Rank>
using Array = nb::ndarray<T, nb::ndim<Rank>, nb::c_contig, nb::device::cpu>;
using Values = nb::ndarray<const uint16_t, nb::ndim<3>, nb::device::cpu>;  // [S, T, D], S strided
using ValuesOut = nb::ndarray<uint16_t, nb::ndim<3>, nb::device::cpu>;

// The kernels of an instruction set; the best one here where none is named.
const Kernels& choose(const std::string& isa);

inline void require(bool condition, const char* message) {
    if (!condition) throw std::invalid_argument(message);
}
template <class V> void check_strides(const V& values) {
    require(values.stride(2) == 1 && values.stride(1) == int64_t(values.shape(2)), "a segment must be contiguous");
}
template <class V> auto* segment(const V& values, size_t s) { return values.data() + int64_t(s) * values.stride(0); }

void bind_projected(nb::module_& m);
void bind_place(nb::module_& m);
void bind_deadzone(nb::module_& m);

}  // namespace tightwire
