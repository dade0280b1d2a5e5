import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.kv.profiler import synthetic
from tests.kv.profiler.synthetic import Synthetic
from tightwire.errors import ConfigError
from tightwire.kv.profiler import engine
from tightwire.kv.profiler.pareto import hypervolume
from tightwire.kv.profiler.rates import compose
from tightwire.kv.profiler.search import Problem, Search, Settings
from tightwire.kv.profiles import ProfileLibrary
from tightwire.kv.strategy import RAW, Strategy

SETTINGS = Settings(30.0, seed=3, cold=6)


def run(journal: Path, settings: Settings = SETTINGS, bench: Synthetic | None = None) -> engine.Outcome:
    return engine.run(bench or Synthetic(), settings, journal, lambda progress: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[engine.Outcome, bytes]:
    """An uninterrupted run and its journal."""
    journal = tmp_path_factory.mktemp("whole") / "journal"
    return run(journal), journal.read_bytes()


def test_finds_nearly_all_of_the_hypervolume_within_its_budget(whole: tuple[engine.Outcome, bytes]) -> None:
    bench, outcome = Synthetic(), whole[0]
    known = compose(bench.space, bench.rates())
    quality = np.array([bench.quality(s) for s in bench.space.strategies])
    gains = Problem.of(bench.space, bench.rates()).scale.gains(known.ratio, known.time_s, quality)
    assert outcome.progress.spent <= 30
    assert outcome.progress.hypervolume >= 0.98 * hypervolume(gains)
    assert outcome.progress.best_ratio >= 0.97 * known.ratio[quality >= 0.99].max()


def test_the_library_is_the_front_with_raw_and_what_was_measured(whole: tuple[engine.Outcome, bytes]) -> None:
    library, bench = whole[0].library, Synthetic()
    assert "raw" in {profile.strategy for profile in library.profiles}
    assert all(p.quality == bench.quality(Strategy.parse(p.strategy), "fresh") for p in library.profiles)
    quality = {found.strategy: found.quality for found in whole[0].found}
    assert {profile.strategy for profile in library.profiles} == {f.strategy for f in whole[0].found if f.on_front}
    assert all(profile.quality == quality[profile.strategy] for profile in library.profiles)
    assert msgspec.json.decode(msgspec.json.encode(library), type=ProfileLibrary) == library


def test_raw_stays_where_a_busy_machine_measured_it_as_slow(tmp_path: Path) -> None:
    bench = Synthetic()
    raw = next(str(s.k) for s in bench.space.strategies if s == RAW)
    slow = bench.rates()
    for side in (slow.k, slow.v):
        side[raw] = msgspec.structs.replace(side[raw], encode_s=1.0)
    bench.rates = lambda: slow  # type: ignore[method-assign]
    bench.quality = lambda strategy, sample="full": 1.0  # type: ignore[method-assign]  # so that others beat it in all
    assert "raw" in {profile.strategy for profile in run(tmp_path / "journal", bench=bench).library.profiles}


@pytest.mark.parametrize("at", range(8))
def test_a_journal_cut_anywhere_gives_the_same_library(
    whole: tuple[engine.Outcome, bytes], tmp_path: Path, at: int
) -> None:
    outcome, data = whole
    journal = tmp_path / "journal"
    journal.write_bytes(data[: random.Random(at).randrange(len(data))])
    assert run(journal) == outcome
    assert journal.read_bytes() == data


def test_what_stands_in_the_journal_is_not_measured_again(whole: tuple[engine.Outcome, bytes], tmp_path: Path) -> None:
    journal, bench = tmp_path / "journal", Synthetic()
    journal.write_bytes(whole[1])
    assert run(journal, bench=bench) == whole[0]
    assert not bench.measured


def test_a_run_that_is_killed_again_and_again_gives_the_same_library(
    whole: tuple[engine.Outcome, bytes], tmp_path: Path
) -> None:
    journal, out, rng, kills = tmp_path / "journal", tmp_path / "out", random.Random(1), 0
    command = [sys.executable, "-m", synthetic.__name__, str(journal), str(out), "0.01"]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    root = Path(__file__).parents[3]
    while True:
        process = subprocess.Popen(command, cwd=root, env=environment)
        size, deadline = journal.stat().st_size if journal.exists() else 0, time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:  # it gets somewhere, then it dies
            if kills < 4 and journal.exists() and journal.stat().st_size > size:
                time.sleep(rng.uniform(0, 0.3))
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.005)
        if process.wait() == 0:
            break
        assert process.returncode == -signal.SIGKILL
        kills += 1
    assert kills >= 3
    assert msgspec.json.decode(out.read_bytes(), type=ProfileLibrary) == whole[0].library


def test_a_journal_of_other_settings_is_refused(whole: tuple[engine.Outcome, bytes], tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    journal.write_bytes(whole[1])
    with pytest.raises(ConfigError, match="another model, space or settings"):
        run(journal, Settings(31.0, seed=3, cold=6))


def test_a_damaged_journal_is_refused(whole: tuple[engine.Outcome, bytes], tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    first, _, rest = whole[1].partition(b"\n")
    journal.write_bytes(first + b"\n{nonsense}\n" + rest)
    with pytest.raises(ConfigError, match="remove the file"):
        run(journal)


def test_a_state_goes_through_json_and_asks_for_the_same(whole: tuple[engine.Outcome, bytes]) -> None:
    bench = Synthetic()
    problem = Problem.of(bench.space, bench.rates())
    search = Search(problem, SETTINGS)
    for _ in range(4):
        asked = search.ask()
        search.tell([synthetic_observation(bench, point, fidelity) for point, fidelity in asked])
    state = msgspec.json.decode(msgspec.json.encode(search.state), type=type(search.state))
    assert state == search.state
    assert Search(problem, state.settings, state.told).ask() == search.ask()


def test_seeds_differ_and_repeat() -> None:
    problem = Problem.of(Synthetic().space, Synthetic().rates())
    asked = [Search(problem, Settings(30.0, seed=seed)).ask() for seed in (0, 0, 1)]
    assert asked[0] == asked[1] != asked[2]


def synthetic_observation(bench: Synthetic, point: int, fidelity: engine.Fidelity) -> engine.Observation:
    strategy = bench.space.strategies[bench.space.at[point]]
    return engine.Observation(point, fidelity, bench.quality(strategy, fidelity))
