"""The benchmark on weights that we did not train: with a small random encoder, and with the pretrained one where its
package is installed."""

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[3] / "bench"))

from external.agreement import Agreement
from external.draw import BINS, spread
from external.encoder import Encoder
from external.families import families, name, ranks
from external.fit import Fit
from external_encoder import PACKAGE, installed, prose
from tests.kv.quality import encoders
from tightwire.errors import ConfigError
from tightwire.kv.block import KVBlock
from tightwire.kv.codec import decode_block, encode_block
from tightwire.kv.quality import rank_correlation
from tightwire.kv.quality.sides import Group
from tightwire.kv.strategy import RAW, Strategy

CHAINS = ("uniform:levels={}", "hadamard+uniform:levels={}", "uniform:levels={},axis=channel")
STRATEGIES = [Strategy.parse(f"{chain.format(levels)}+pack") for levels in (3, 8, 32) for chain in CHAINS]
MEASURED, CALIBRATION = prose()


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder(encoders.save(tmp_path_factory.mktemp("encoder")))


@pytest.fixture(scope="module")
def agreement(encoder: Encoder) -> Agreement:
    return Agreement(encoder, MEASURED[:30])


def falls_with_levels(agreement: Agreement) -> None:
    for chain in range(len(CHAINS)):
        losses = [agreement.loss(strategy) for strategy in STRATEGIES[chain :: len(CHAINS)]]
        for which in ("cosine", "order"):
            found = [getattr(loss, which) for loss in losses]
            assert found[0] > 2 * found[1] > 4 * found[2] > 0, (CHAINS[chain], which)


def test_raw_loses_nothing(agreement: Agreement) -> None:
    loss = agreement.loss(RAW)
    assert loss.cosine == 0
    assert loss.order == pytest.approx(0, abs=1e-12)


def test_fewer_levels_lose_more(agreement: Agreement) -> None:
    falls_with_levels(agreement)


@pytest.mark.parametrize("strategy", [*STRATEGIES[:3], Strategy.parse("uniform:levels=4+rans@sinks=4,recent=32")])
def test_what_arrives_is_what_frames_carry(agreement: Agreement, strategy: Strategy) -> None:
    for group, k, v in zip(agreement.sides.groups, *agreement.sides.arrived(strategy), strict=True):
        for request in range(len(k)):
            sent = KVBlock(group.k[request], group.v[request])
            for chunk in sent.token_chunks(128):
                found = decode_block(encode_block(chunk, strategy))
                at = slice(chunk.token_start, chunk.token_start + chunk.tokens)
                assert torch.equal(found.k, k[request][:, :, at])
                assert torch.equal(found.v, v[request][:, :, at])


def test_the_stream_covers_every_token_once(encoder: Encoder, agreement: Agreement) -> None:
    assert agreement.tokens == sum(batch.numel() for batch in encoder.batches(MEASURED[:30])) > 512
    assert sum(group.k.shape[0] * group.k.shape[3] for group in agreement.sides.groups) == agreement.tokens


def test_each_sentence_gets_its_own_kv(encoder: Encoder) -> None:
    """Without replacement, one sentence at a time, the embedding is the same up to bf16; with another's V it is not."""
    batches = encoder.batches(MEASURED[:6])
    k, v = encoder.record(batches)
    together = encoder.embed(batches, k, v)
    rows = [row[None] for batch in batches for row in batch]
    apart = torch.cat([encoder.embed([row], *encoder.record([row])) for row in rows])
    assert ((together * apart).sum(dim=1) > 1 - 1e-4).all()
    changed = v.clone()
    changed[:, :, : rows[0].numel()] *= -1
    moved = (encoder.embed(batches, k, changed) * together).sum(dim=1)
    assert moved[0] < 0.999
    torch.testing.assert_close(moved[1:], torch.ones_like(moved[1:]))


def test_a_strategy_is_fitted(encoder: Encoder) -> None:
    fit = Fit.of(KVBlock(*encoder.record(encoder.batches(CALIBRATION[:8]))), encoder.fingerprint)
    text = "rope:theta=500000+pca:over=heads,table={}+allocate+pack/equalize:table={}+uniform+pack@sinks=4"
    found = fit(Strategy.parse(text.format("pca-other", "equalize-other")))
    expected = Strategy.parse(text.format(fit.tables["pca", "k"], fit.tables["equalize", "v"]).partition("+")[2])
    assert found == expected
    block = KVBlock(*encoder.record(encoder.batches(CALIBRATION[8:12])))
    assert decode_block(encode_block(block, found)).k.shape == block.k.shape


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no model\.safetensors"):
        Encoder(tmp_path)


def test_draws_are_spread_and_repeat() -> None:
    loss = np.random.default_rng(0).lognormal(-7, 1, 4000)
    loss[:100] = 0
    found = spread(loss, 200, seed=1)
    assert len(set(found)) == 200
    assert (loss[found] > 0).all()
    assert np.array_equal(found, spread(loss, 200, seed=1))
    assert not np.array_equal(found, spread(loss, 200, seed=2))
    parts = [np.histogram(np.log(x), BINS, range=np.log(loss[100:]).take([loss[100:].argmin(), loss[100:].argmax()]))[0]
             for x in (loss[found], loss[100:])]  # fmt: skip
    assert np.std(parts[0] / 200) < np.std(parts[1] / 3900) / 2


def test_families() -> None:
    chain = Strategy.parse("rope+outliers+uniform:levels=4,axis=channel+rans").k
    assert name(chain) == "rope+outliers+uniform by channel"
    assert name(RAW.k) == ""
    assert ranks(np.array([3.0, 1.0, 3.0])).tolist() == [1.5, 0, 1.5]
    second = np.arange(12.0)
    first = np.where(second < 6, second + 6, second - 6)
    found = families(["a"] * 6 + ["b"] * 6, first, second)
    assert [(f.name, f.members, f.correlation, f.shift) for f in found] == [
        ("a", 6, pytest.approx(1), 0.5),
        ("b", 6, pytest.approx(1), -0.5),
    ]


@pytest.mark.skipif(find_spec(PACKAGE) is None, reason=f"{PACKAGE} is not installed")
def test_pretrained() -> None:
    encoder = Encoder(installed())
    agreement = Agreement(encoder, MEASURED[::16])
    falls_with_levels(agreement)
    losses = [agreement.loss(strategy) for strategy in STRATEGIES]
    assert rank_correlation([loss.cosine for loss in losses], [loss.order for loss in losses]) > 0.9


def test_group_shapes_are_requests(agreement: Agreement) -> None:
    first: Group = agreement.sides.groups[0]
    assert first.k.shape[1:] == (2, 4, 512, 16)
