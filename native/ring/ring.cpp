// Python module tightwire._ring: the writer of the probe's ring.
#include "ring.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

namespace nb = nanobind;
using namespace nb::literals;
using tightwire::Writer;

NB_MODULE(_ring, m) {
    nb::set_leak_warnings(false);  // the probe writes until its process ends
    m.doc() = "Writer of the probe's event ring.";
    nb::class_<Writer>(m, "Writer")
        .def(nb::init<const std::string&, uint32_t, uint32_t, uint32_t, uint32_t, uint64_t>(), "path"_a, "capacity"_a,
             "rank"_a, "world"_a, "pid"_a, "pid_start"_a)
        .def("add_group", &Writer::add_group, "group"_a)
        .def("entered", &Writer::entered, "slot"_a, "group"_a, "seq"_a, "op"_a, "bytes"_a, "dtype"_a, "shape"_a, "peer"_a)
        .def("done", &Writer::done, "slot"_a, "group"_a, "seq"_a, "op"_a, "failed"_a)
        .def("waiting", &Writer::waiting, "slot"_a, "seq"_a)
        .def("note_sigterm", &Writer::note_sigterm)
        .def("goodbye", &Writer::goodbye, "how"_a)
        .def_prop_ro("written", &Writer::written)
        .def_prop_ro("address", [](Writer& writer) { return reinterpret_cast<uintptr_t>(&writer); });
}
