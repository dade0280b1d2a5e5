"""What a profiling run found, as a page: the picture, the front, and where the published methods stand."""

from __future__ import annotations

from collections.abc import Sequence

from tightwire.core.records import Cloud, Page, Table
from tightwire.kv.profiler.engine import Found, Outcome
from tightwire.kv.strategy import Strategy

QUALITIES = (0.999, 0.99, 0.97, 0.95, 0.9)
_RATIO, _TIME, _QUALITY = "ratio", "ns a raw byte", "relative quality"
_SHOWN = 0.85  # quality from which on points are drawn


def page(outcome: Outcome) -> Page:
    """All sections."""
    return Page(
        f"Profile of {outcome.library.model}",
        f"{outcome.progress}. Ratio, and seconds of encoding and decoding together, are measured of every strategy; "
        "quality of those that the search asked for; of front and presets once more, on prompts that it did not see.",
        [picture(outcome.found), best(outcome.found), published(outcome.found), front(outcome)],
    )


def picture(found: Sequence[Found]) -> Cloud:
    """Everything whose quality was measured."""
    shown = [each for each in found if each.quality >= _SHOWN]
    groups = [
        ("measured", [each for each in shown if not each.on_front and not each.preset]),
        ("front", [each for each in shown if each.on_front]),
        ("published presets", [each for each in shown if each.preset]),
    ]
    return Cloud(
        "Strategies by ratio, time and quality",
        [_RATIO, _TIME, _QUALITY],
        [name for name, _ in groups],
        [[(each.ratio, each.time_s * 1e9, each.quality) for each in group] for _, group in groups],
        [[each.preset for each in group] for _, group in groups],
        log=[_RATIO, _TIME],
    )


def best(found: Sequence[Found]) -> Table:
    """The largest ratio at each quality, of all and of the published presets."""
    rows = []
    for quality in QUALITIES:
        good = [each for each in found if each.fresh and each.quality >= quality]
        ours = max(good, key=lambda each: each.ratio)
        theirs = max((each for each in good if each.preset), key=lambda each: each.ratio, default=None)
        rows.append([
            f"{quality:g}", f"{ours.ratio:.2f}", f"{ours.quality:.4f}", Strategy.parse(ours.strategy).short,
            f"{theirs.ratio:.2f} ({theirs.preset})" if theirs else "none",
        ])  # fmt: skip
    return Table(
        "Largest ratio at a quality", ["quality at least", "ratio", "quality", "strategy", "best preset"], rows,
        right=["quality at least", "ratio", "quality"], notes=["quality on prompts that the search did not see"],
    )  # fmt: skip


def published(found: Sequence[Found]) -> Table:
    """Where the presets stand, and the largest ratio that is at least as good and as fast as each."""
    rows = []
    for preset in sorted((each for each in found if each.preset), key=lambda each: -each.quality):
        better = [
            each for each in found if each.fresh and each.quality >= preset.quality and each.time_s <= preset.time_s and each.ratio > preset.ratio
        ]
        beaten = max((each.ratio for each in better), default=None)
        rows.append([
            preset.preset, f"{preset.ratio:.2f}", f"{preset.quality:.4f}", f"{preset.time_s * 1e9:.2f}",
            "on the front" if preset.on_front else f"{beaten:.2f}" if beaten else "-",
        ])  # fmt: skip
    return Table(
        "Published presets", ["preset", _RATIO, _QUALITY, _TIME, "found: as good, as fast, ratio"], rows,
        right=[_RATIO, _QUALITY, _TIME], notes=["presets are measured in any case, besides the budget"],
    )  # fmt: skip


def front(outcome: Outcome) -> Table:
    """The library."""
    rows = [
        [
            Strategy.parse(profile.strategy).short, f"{profile.ratio:.2f}", f"{profile.quality:.4f}",
            f"{profile.encode_bytes_per_s / 1e6:.0f}", f"{profile.decode_bytes_per_s / 1e6:.0f}",
        ]
        for profile in sorted(outcome.library.profiles, key=lambda profile: -profile.ratio)
    ]  # fmt: skip
    return Table(
        "The front", ["strategy", _RATIO, _QUALITY, "encode MB/s", "decode MB/s"], rows,
        right=[_RATIO, _QUALITY, "encode MB/s", "decode MB/s"],
    )  # fmt: skip
