"""KV goes over a link between two processes and the continuation is the one without a transfer."""

import statistics

import pytest

from tightwire.errors import ConfigError
from tightwire.kv import refmodel
from tightwire.kv.block import KVBlock
from tightwire.kv.demo import fleet, prompts, run
from tightwire.kv.demo.messages import Calibrate, Calibrated, Decode, Decoded, Prefill, Sent
from tightwire.kv.engines.transformers import Engine, assemble
from tightwire.kv.quality import common_prefix, relative_likelihood
from tightwire.kv.strategy import RAW, Strategy


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(refmodel.path())


def test_continuing_from_kv_equals_continuing_the_model(engine: Engine) -> None:
    (ids,) = prompts.make(1, 200)
    kv = engine.prefill(ids[:-1])
    assert kv.k.shape == (4, 2, len(ids) - 1, 64)
    joined = assemble(list(reversed(kv.token_chunks(64))))
    assert engine.generate(ids, joined, 8) == engine.generate(ids, kv, 8)
    assert relative_likelihood(engine, [ids], RAW, count=8) == 1.0
    rough = relative_likelihood(engine, [ids], Strategy.parse("uniform:levels=2+pack"), count=24)
    fine = relative_likelihood(engine, [ids], Strategy.parse("hadamard+uniform:levels=256+pack"), count=24)
    assert rough < fine
    assert fine > 0.95


def test_kv_that_does_not_fit_is_refused(engine: Engine) -> None:
    (ids,) = prompts.make(1, 100)
    kv = engine.prefill(ids[:-2])
    with pytest.raises(ConfigError, match="does not fit"):
        engine.generate(ids, kv, 1)
    with pytest.raises(ConfigError, match="starts at"):
        assemble([KVBlock(kv.k, kv.v, 0, 5)])


@pytest.mark.engine
@pytest.mark.parametrize("userspace", [False, True])
def test_two_processes_over_a_shaped_link(userspace: bool) -> None:
    made = prompts.make(6, 300)
    with fleet.start(refmodel.path(), userspace=userspace) as workers:
        calibrated = workers.prefill.ask(Calibrate(made[2:], list(run.CANDIDATES)))
        assert isinstance(calibrated, Calibrated)
        assert {p.strategy for p in calibrated.profiles} == {str(Strategy.parse(text)) for text in run.CANDIDATES}
        took: dict[str, list[float]] = {"raw": [], "auto": []}
        assert workers.set_rate(500_000.0) == pytest.approx(500_000, rel=0.5)
        for ids in made[:2]:
            local = workers.decode.ask(Decode(None, ids, 12))
            assert isinstance(local, Decoded)
            for mode in took:
                workers.decode.tell(Decode(mode + str(len(took[mode])), ids, 12))
                sent = workers.prefill.ask(Prefill(mode + str(len(took[mode])), ids, mode))
                decoded = workers.decode.reply()
                assert isinstance(sent, Sent)
                assert isinstance(decoded, Decoded)
                assert decoded.error is None
                assert not decoded.recomputed
                took[mode].append(sent.transfer_s)
                if mode == "raw":
                    assert decoded.tokens == local.tokens
                else:
                    assert sent.decision is not None
                    assert sent.strategy != "raw"
        assert statistics.median(took["auto"]) < statistics.median(took["raw"]) / 2


def test_common_prefix() -> None:
    assert common_prefix([1, 2, 3, 4], [1, 2, 9, 4]) == 0.5
    assert common_prefix([1, 2], [1, 2]) == 1.0
