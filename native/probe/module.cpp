// Python module tightwire._probe_torch_<version>: the observer, for the version of torch in its name.
#include <torch/csrc/Dtype.h>
#include <torch/csrc/utils/pybind.h>

#include "observer.h"

namespace tightwire {
namespace {

Observer::NewChannel in_python(py::object make) {
    auto* kept = new py::object(std::move(make));  // for as long as the process lives
    return [kept](const GroupPtr& group, Direction direction, int64_t partner, int64_t tag) {
        const py::gil_scoped_acquire gil;
        const char* names[] = {"", "to", "from"};
        return (*kept)(group, names[int(direction)], partner, tag).cast<std::pair<int, uint64_t>>();
    };
}

// (name, operation, group_at, share_at, partner_at, tag_at, direction)
using Row = std::tuple<std::string, uint32_t, int, int, int, int, std::string>;

Observer* make(py::object writer, py::object new_channel, const py::dict& dtypes, const std::vector<Row>& rows) {
    std::unordered_map<int, uint32_t> codes;
    for (const auto& [dtype, code] : dtypes)
        codes[int(reinterpret_cast<THPDtype*>(dtype.ptr())->scalar_type)] = code.cast<uint32_t>();
    auto* raw = reinterpret_cast<Writer*>(writer.attr("address").cast<uintptr_t>());
    writer.release();  // kept for as long as the process lives
    auto* observer = new Observer(*raw, in_python(std::move(new_channel)), std::move(codes));
    std::vector<Call> calls;
    for (const auto& [name, operation, group_at, share_at, partner_at, tag_at, direction] : rows)
        calls.push_back({name, operation, group_at, share_at, partner_at, tag_at,
                         direction == "to"     ? Direction::to
                         : direction == "from" ? Direction::from
                                               : Direction::none});
    observer->install(calls);
    return observer;
}

// Call `original`, the wait of a Work, and note that.
py::object wait(Observer& observer, const py::function& original, const py::args& arguments, const py::kwargs& named) {
    std::optional<Pending> pending;
    if (observer.active()) pending = observer.waited_for(arguments[0].cast<c10d::Work*>());
    if (!pending) return original(*arguments, **named);
    observer.begin_wait(*pending);
    const auto ended = [&](bool returned) {
        const py::gil_scoped_release released;
        observer.end_wait(*pending, returned);
        pending.reset();
    };
    try {
        py::object result = original(*arguments, **named);
        ended(true);
        return result;
    } catch (...) {
        ended(false);
        throw;
    }
}

}  // namespace

PYBIND11_MODULE(TIGHTWIRE_MODULE, m) {
    m.doc() = "Sees the calls of torch.distributed in the dispatcher, without the GIL.";
    py::class_<Observer, std::unique_ptr<Observer, py::nodelete>>(m, "Observer")
        .def(py::init(&make), py::arg("writer"), py::arg("new_channel"), py::arg("dtypes"), py::arg("calls"))
        .def("watch", &Observer::watch)
        .def("stop", &Observer::stop, py::call_guard<py::gil_scoped_release>())
        .def("disable", &Observer::disable)
        .def_property_readonly("active", &Observer::active)
        .def("sweep", [](Observer& observer) { observer.sweep(); }, py::call_guard<py::gil_scoped_release>())
        .def("wait", &wait, py::arg("original"));
}

}  // namespace tightwire
