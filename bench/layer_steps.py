"""One step for all channels, one for each layer, and a budget of bits: what K alone, and V alone, lose at which size.

Calibrated on the reference model as `tightwire kv profile` does; loss is 1 − relative quality, the mean over suites of other
prompts (`--seeds` of them), ratio that of their frames with the other side raw, as bits for each value of the side alone.

    python bench/layer_steps.py [--seeds 6] [--json FILE]
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from statistics import mean

import torch

import harness
from harness import Result
from tightwire.kv import refmodel
from tightwire.kv.engines.batched import BatchedModel
from tightwire.kv.profiler.calibration import Calibration
from tightwire.kv.profiler.space import Calibrated
from tightwire.kv.quality import Suite
from tightwire.kv.strategy import RAW, Strategy
from tightwire.kv.transfer.sender import DEFAULT_CHUNK_TOKENS

FIRST_SEED = 21
QUANTIZERS = {
    "allocate_200": (50, "allocate:centibits=200,channels=8"),
    "allocate_250": (50, "allocate:centibits=250,channels=8"),
    "deadzone_125": (100, "deadzone:step=125"),
    "deadzone_150": (100, "deadzone:step=150"),
    "layers_150": (100, "deadzone:step=150,table={}"),
    "layers_200": (100, "deadzone:step=200,table={}"),
    "layers_300": (75, "deadzone:step=300,table={}"),
}


def main() -> None:
    parser = harness.parser(__doc__ or "")
    parser.add_argument("--seeds", type=int, default=6)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = BatchedModel(refmodel.path())
    calibration = Calibration(model, DEFAULT_CHUNK_TOKENS)
    with tempfile.TemporaryDirectory() as folder:
        calibrated = calibration.make(Path(folder))
        os.environ["TIGHTWIRE_TABLES"] = folder
        suites = [Suite.of(refmodel.path(), seed=FIRST_SEED + number) for number in range(args.seeds)]
        results = [each for side in ("k", "v") for each in of_side(side, calibrated, suites)]
    harness.publish("layer_steps", results, args.json)


def of_side(side: str, calibrated: Calibrated, suites: list[Suite]) -> list[Result]:
    found = []
    for name, (keep, quantizer) in QUANTIZERS.items():
        before = f"{calibrated.rope}+" if side == "k" else ""
        text = f"{before}pca:over=heads,keep={keep},table={calibrated.tables[f'pca.{side}']}+{quantizer}+rans"
        chain = Strategy.parse(text.format(calibrated.tables[f"deadzone.{side}"])).k
        strategy = Strategy(chain, RAW.v) if side == "k" else Strategy(RAW.k, chain)
        loss = mean(1 - suite.measure(strategy).relative for suite in suites)
        bits = mean(16 * (2 / suite.ratio(strategy) - 1) for suite in suites)
        found += [Result(f"{side}.{name}.bits", bits, "bit", "lower"), Result(f"{side}.{name}.loss", loss, "share", "lower")]
    return found


if __name__ == "__main__":
    main()
