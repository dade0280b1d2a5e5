import pytest

from tightwire.kv.presets import presets
from tightwire.kv.profiler.space import Calibrated, Space, family, for_model, is_coarser, standard
from tightwire.kv.strategy import RAW, Strategy

CALIBRATED = Calibrated(
    {f"{use}.{side}": f"{use}-{number:015x}{side == 'k':d}" for number, use in enumerate(("pca", "equalize", "deadzone")) for side in "kv"},
    "rope:theta=500000",
)


@pytest.fixture(scope="module")
def space() -> Space:
    return standard(CALIBRATED)


def side(text: str) -> tuple:  # type: ignore[type-arg]
    return Strategy.parse(f"{text}+pack").k.stages[:-1]


def test_the_standard_space_is_large_distinct_and_holds_what_was_published(space: Space) -> None:
    assert 8000 <= len(space) == len(set(space.strategies))
    assert {preset.strategy for preset in presets().values()} <= set(space.strategies)
    assert RAW in space.strategies


@pytest.mark.parametrize(
    "names", [("rope", "hadamard", "uniform", "rans"), ("equalize", "mixed", "rans"), ("rope", "pca", "allocate", "rans"), ("rope", "pca", "deadzone", "rans")]
)
def test_it_holds_mixtures_that_no_paper_has(space: Space, names: tuple[str, ...]) -> None:
    assert any(tuple(stage.name for stage in s.k.stages) == names for s in space.strategies)


def test_a_point_is_what_codecs_do_not_change(space: Space) -> None:
    for index in range(0, len(space), 97):
        s, same = space.strategies[index], space.strategies[space.at[space.point[index]]]
        assert (s.k.stages[:-1], s.v.stages[:-1], s.exact) == (same.k.stages[:-1], same.v.stages[:-1], same.exact)


def test_lossless_points_are_those_without_a_quantizer(space: Space) -> None:
    assert {str(space.strategies[space.at[p]]) for p in space.lossless.nonzero()[0]} == {"raw"}


@pytest.mark.parametrize(
    ("fewer", "more"),
    [
        ("uniform:levels=4", "uniform:levels=6"),
        ("mixed:high=8,low=4,share=80", "mixed:high=12,low=6,share=50"),
        ("rope+pca:keep=50+allocate:centibits=150", "rope+pca:keep=75+allocate:centibits=150"),
    ],
)
def test_fewer_levels_are_coarser(fewer: str, more: str) -> None:
    assert is_coarser(side(fewer), side(more))
    assert not is_coarser(side(more), side(fewer))
    assert family(side(fewer)) == family(side(more))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("uniform:levels=4", "uniform:levels=6,axis=channel"),
        ("uniform:levels=4", "hadamard+uniform:levels=6"),
        ("uniform:levels=4,group=32", "uniform:levels=6,group=64"),
        ("pca:keep=50+allocate:centibits=300", "pca:keep=75+allocate:centibits=200"),
    ],
)
def test_what_differs_otherwise_has_no_order(a: str, b: str) -> None:
    assert not is_coarser(side(a), side(b))
    assert not is_coarser(side(b), side(a))


def test_coarser_and_finer_are_each_other_s_inverse() -> None:
    texts = ["uniform:levels=4+pack", "uniform:levels=8+pack", "uniform:levels=4+pack@sinks=4", "uniform:levels=8+pack/uniform:levels=4+pack"]
    space = Space([Strategy.parse(text) for text in texts])
    assert space.coarser(1).tolist() == [True, True, False, True]
    assert space.finer(0).tolist() == [True, True, True, True]
    for a in range(space.points):
        for b in range(space.points):
            assert space.coarser(a)[b] == space.finer(b)[a]


def test_presets_are_fitted_to_the_model() -> None:
    fitted = for_model(presets()["kvtc-16x"].strategy, CALIBRATED)
    assert "rope:theta=500000" in str(fitted.k)
    assert CALIBRATED.tables["pca.k"] in str(fitted.k)
    assert CALIBRATED.tables["pca.v"] in str(fitted.v)
    assert for_model(presets()["quarot-4"].strategy, CALIBRATED) == presets()["quarot-4"].strategy
