"""Optuna's samplers over the same space: which K side, which V side, what is exact; three objectives to maximise."""

from __future__ import annotations

import warnings

import numpy as np

from peers.replay import Replay


def search(replay: Replay, budget: int, seed: int, sampler: str) -> None:
    """`sampler`: `tpe` or `nsga2`. A pair that is no strategy of the space is told as pruned and costs nothing."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", module="optuna")
    made = {
        "tpe": lambda: optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=10),
        "nsga2": lambda: optuna.samplers.NSGAIISampler(seed=seed, population_size=20),
    }[sampler]()
    space, gains = replay.space, replay.whole.gains
    point_of = {(int(k), int(v), int(e)): p for p, (k, v, e) in enumerate(zip(space.k, space.v, space.exact, strict=True))}
    best = [np.flatnonzero(space.point == p)[np.argmax(gains[space.point == p][:, 0])] for p in range(space.points)]
    common = _product(space)
    study = optuna.create_study(directions=["maximize"] * 3, sampler=made)
    seen: set[int] = set()
    for _ in range(20 * budget):
        if len(seen) == budget:
            return
        trial = study.ask()
        k, v, e = (trial.suggest_categorical(name, choices) for name, choices in zip("kve", common, strict=True))
        point = point_of.get((k, v, e))
        if point is None:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            continue
        seen.add(point)
        replay.measure(point)
        study.tell(trial, [float(gain) for gain in gains[best[point]]])


def _product(space) -> tuple[list[int], list[int], list[int]]:  # type: ignore[no-untyped-def]
    """The sides and kinds of exactness of which every pair is in the space: presets' own are left out."""
    counts = [np.bincount(index) for index in (space.k, space.v, space.exact)]
    return tuple([int(i) for i in np.flatnonzero(count > 10)] for count in counts)  # type: ignore[return-value]
