"""The map of channels: what stands out in each column, with its id, whatever the sizes."""

from pathlib import Path

import numpy as np
import pytest

from ffn_probe.anatomy import Site
from ffn_probe.errors import UnknownName
from ffn_probe.runs import Run
from ffn_probe.runs.channel_map import CHANNEL_MEASURES
from tests.compare.made_runs import make_run

WIDE, NARROW = 37, 20
OF = {
    "absmax": lambda x: np.abs(x).max(axis=0),
    "rms": lambda x: np.sqrt((x**2).mean(axis=0)),
    "mean": lambda x: x.mean(axis=0),
    "std": lambda x: x.std(axis=0),
    "active": lambda x: (x != 0).mean(axis=0),
}


def drawn(seed: int, channels: int) -> list[np.ndarray]:
    """Return four folds of unlike sizes, with a loud and a dead channel."""
    generator = np.random.default_rng(seed)
    folds = [generator.standard_normal((rows, channels)) for rows in (5, 9, 3, 7)]
    for x in folds:
        x[:, 11] *= 50
        x[:, 4] = 0
    return folds


@pytest.fixture(scope="module")
def values() -> dict[Site, list[np.ndarray]]:
    return {
        Site(0, "layers.0", "hidden"): drawn(0, WIDE),
        Site(0, "layers.0", "out"): drawn(1, NARROW),
        Site(1, "layers.1", "hidden"): drawn(2, NARROW),
        Site(2, "layers.2", "hidden", 0): drawn(3, WIDE),
        Site(2, "layers.2", "hidden", 1): [x * 2 for x in drawn(4, WIDE)],
    }


@pytest.fixture(scope="module")
def run(values: dict[Site, list[np.ndarray]], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("map") / "run", values)


@pytest.mark.parametrize("name", OF)
def test_a_map_of_few_channels_is_the_numbers_themselves(
    run: Run, values: dict[Site, list[np.ndarray]], name: str
) -> None:
    found = run.channel_map("hidden", name)
    wide = OF[name](np.concatenate(values[Site(0, "layers.0", "hidden")]))
    narrow = OF[name](np.concatenate(values[Site(1, "layers.1", "hidden")]))
    assert found.values.dtype == np.float32
    assert (found.layers, found.blocks[1]) == ((0, 1, 2), "layers.1")
    assert (found.width, found.together) == (WIDE, 1)
    np.testing.assert_allclose(found.values[0], wide, rtol=1e-5)
    np.testing.assert_allclose(found.values[1, :NARROW], narrow, rtol=1e-5)
    assert np.isnan(found.values[1, NARROW:]).all()
    assert found.channels[1].tolist() == [*range(NARROW), *[-1] * (WIDE - NARROW)]


@pytest.mark.parametrize("columns", [1, 5, 10, 36])
def test_neighbours_share_a_column_and_the_loudest_is_named(run: Run, columns: int) -> None:
    found = run.channel_map("hidden", "absmax", columns)
    whole = run.channel_map("hidden", "absmax")
    assert found.values.shape[1] <= columns
    where = found.channels[0] == 11
    assert where.sum() == 1
    assert found.values[0, where] == whole.values[0, 11]
    for column in range(found.values.shape[1]):
        part = whole.values[0, column * found.together : (column + 1) * found.together]
        assert found.values[0, column] == part.max()
        assert whole.values[0, found.channels[0, column]] == part.max()


def test_the_mean_farthest_from_zero_keeps_its_sign(tmp_path: Path) -> None:
    x = np.array([[1.0, -3.0, 2.0, 0.5]])
    run = make_run(tmp_path / "run", {Site(0, "mlp", "hidden"): [x, x]})
    found = run.channel_map("hidden", "mean", 2)
    assert found.values.tolist() == [[-3.0, 2.0]]
    assert found.channels.tolist() == [[1, 2]]


def test_of_the_share_of_values_the_least_is_shown(run: Run) -> None:
    found = run.channel_map("hidden", "active", 4)
    assert found.values[0, 0] == 0
    assert found.channels[0, 0] == 4


def test_of_experts_the_one_that_stands_out_is_shown(
    run: Run, values: dict[Site, list[np.ndarray]]
) -> None:
    both = [
        OF["absmax"](np.concatenate(values[Site(2, "layers.2", "hidden", e)])) for e in (0, 1)
    ]
    found = run.channel_map("hidden", "absmax")
    np.testing.assert_allclose(found.values[2], np.maximum(*both), rtol=1e-6)


def test_what_there_is_not_is_said(run: Run) -> None:
    with pytest.raises(UnknownName, match=r"no measure of channels 'rsm'\. Did you mean 'rms'"):
        run.channel_map("hidden", "rsm")
    with pytest.raises(UnknownName, match=r"no role 'gate'.*hidden, out"):
        run.channel_map("gate", "rms")
    assert [entry.name for entry in CHANNEL_MEASURES] == list(OF)
