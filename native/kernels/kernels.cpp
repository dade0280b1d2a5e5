// Python module tightwire._kernels: checks shapes, releases the GIL, dispatches by instruction set.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <stdexcept>
#include <string>

#include "fused.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace tightwire;

template <class T, size_t Rank>
using Array = nb::ndarray<T, nb::ndim<Rank>, nb::c_contig, nb::device::cpu>;

namespace {

struct Dispatch {
    const char* isa;
    EncodeFn encode;
    DecodeFn decode;
};

Dispatch choose() {
#ifdef TW_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("bmi2"))
        return {"avx512", avx512::encode, avx512::decode};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2"))
        return {"avx2", avx2::encode, avx2::decode};
#endif
    return {"portable", portable::encode, portable::decode};
}

Dispatch by_name(const std::string& isa) {
#ifdef TW_X86
    if (isa == "avx512") return {"avx512", avx512::encode, avx512::decode};
    if (isa == "avx2") return {"avx2", avx2::encode, avx2::decode};
#endif
    if (isa == "portable") return {"portable", portable::encode, portable::decode};
    throw std::invalid_argument("no such instruction set in this build: " + isa);
}

const Dispatch kBest = choose();

struct Checked {
    FusedShape shape;
    FusedTransform transform;
};

Checked check(size_t rows, size_t dim, size_t groups, size_t row_bytes, int levels, int bits,
              size_t weights, const float* weights_data) {
    if (dim == 0 || dim % 16 || dim > kMaxDim) throw std::invalid_argument("dim must be a multiple of 16, at most 1024");
    if (groups == 0 || dim % groups || (dim / groups) % 16)
        throw std::invalid_argument("the group size must divide dim and be a multiple of 16");
    if (levels < 2 || levels > 256) throw std::invalid_argument("levels must be 2..256");
    if (bits < 1 || bits > 8 || (1 << bits) < levels) throw std::invalid_argument("bits must hold the levels, 1..8");
    if (row_bytes != dim * size_t(bits) / 8) throw std::invalid_argument("packed has the wrong row size");
    if (weights && weights != dim) throw std::invalid_argument("weights must have dim elements, or none");
    return {{rows, dim, dim / groups, levels, bits},
            {weights ? weights_data : nullptr}};
}

}  // namespace

NB_MODULE(_kernels, m) {
    m.doc() = "Fused transform + quantise + pack kernels; the contract is tightwire.kv.kernels.reference.";
    m.attr("isa") = kBest.isa;
    nb::list isas;  // those that this processor can run, best last
    isas.append("portable");
    if (std::string(kBest.isa) != "portable") isas.append("avx2");
    if (std::string(kBest.isa) == "avx512") isas.append("avx512");
    m.attr("isas") = isas;
    m.def("fused_encode",
          [](Array<const uint16_t, 2> in, Array<const float, 1> weights, int levels, int bits,
             Array<uint16_t, 2> lo, Array<uint16_t, 2> step, Array<uint8_t, 2> packed, const std::string& isa) {
              Checked c = check(in.shape(0), in.shape(1), lo.shape(1), packed.shape(1), levels, bits,
                                weights.shape(0), weights.data());
              if (lo.shape(0) != in.shape(0) || step.shape(0) != in.shape(0) || packed.shape(0) != in.shape(0) ||
                  step.shape(1) != lo.shape(1))
                  throw std::invalid_argument("lo, step and packed must have one row per row of the input");
              Dispatch d = isa.empty() ? kBest : by_name(isa);
              nb::gil_scoped_release release;
              return d.encode(in.data(), c.shape, c.transform, lo.data(), step.data(), packed.data());
          },
          "values"_a, "weights"_a, "levels"_a, "bits"_a, "lo"_a, "step"_a, "packed"_a, "isa"_a = "");
    m.def("fused_decode",
          [](Array<const uint16_t, 2> lo, Array<const uint16_t, 2> step, Array<const uint8_t, 2> packed,
             Array<const float, 1> weights, int levels, int bits,
             Array<uint16_t, 2> out, const std::string& isa) {
              Checked c = check(out.shape(0), out.shape(1), lo.shape(1), packed.shape(1), levels, bits,
                                weights.shape(0), weights.data());
              if (lo.shape(0) != out.shape(0) || step.shape(0) != out.shape(0) || packed.shape(0) != out.shape(0) ||
                  step.shape(1) != lo.shape(1))
                  throw std::invalid_argument("lo, step and packed must have one row per row of the output");
              Dispatch d = isa.empty() ? kBest : by_name(isa);
              nb::gil_scoped_release release;
              d.decode(lo.data(), step.data(), packed.data(), c.shape, c.transform, out.data());
          },
          "lo"_a, "step"_a, "packed"_a, "weights"_a, "levels"_a, "bits"_a, "out"_a, "isa"_a = "");
}
