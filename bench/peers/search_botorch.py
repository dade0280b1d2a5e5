"""BoTorch's qLogNEHVI: Gaussian processes of all three objectives over the configuration, batches of 8 from a sample of
the space."""

from __future__ import annotations

import warnings

import numpy as np
import torch

from peers.replay import Replay

_COLD, _BATCH, _CANDIDATES, _SAMPLES = 16, 8, 512, 64


def search(replay: Replay, budget: int, seed: int) -> None:
    from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import ModelListGP, SingleTaskGP
    from botorch.optim import optimize_acqf_discrete
    from botorch.sampling import SobolQMCNormalSampler
    from gpytorch.mlls import SumMarginalLogLikelihood

    warnings.filterwarnings("ignore")
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    space, gains = replay.space, replay.whole.gains
    best = np.array(
        [np.flatnonzero(space.point == p)[np.argmax(gains[space.point == p][:, 0])] for p in range(space.points)]
    )
    x = torch.from_numpy(replay.encoding)
    x = (x - x.min(0).values) / (x.max(0).values - x.min(0).values).clamp_min(1e-9)
    seen = [int(p) for p in rng.choice(space.points, _COLD, replace=False)]
    for point in seen:
        replay.measure(point)
    while len(seen) < budget:
        y = torch.from_numpy(gains[best[seen]])
        model = ModelListGP(*(SingleTaskGP(x[seen], y[:, [i]], torch.full((len(seen), 1), 1e-4).double()) for i in range(3)))
        fit_gpytorch_mll(SumMarginalLogLikelihood(model.likelihood, model), optimizer_kwargs={"options": {"maxiter": 50}})
        left = np.setdiff1d(np.arange(space.points), seen)
        some = rng.choice(left, min(_CANDIDATES, len(left)), replace=False)
        acquisition = qLogNoisyExpectedHypervolumeImprovement(
            model, ref_point=[0.0] * 3, X_baseline=x[seen], prune_baseline=True,
            sampler=SobolQMCNormalSampler(torch.Size([_SAMPLES]), seed=seed), cache_root=False,
        )  # fmt: skip
        count = min(_BATCH, budget - len(seen))
        chosen, _ = optimize_acqf_discrete(acquisition, q=count, choices=x[some], unique=True)
        for row in chosen:
            point = int(some[(x[some] - row).abs().sum(1).argmin()])
            if point not in seen:
                seen.append(point)
                replay.measure(point)
