"""Damaged, foreign and malicious runs: an error in words that names the file, and no more."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ffn_probe.errors import FfnProbeError, RunError, SchemaError
from ffn_probe.runs import SCHEMA_VERSION, Manifest, Run
from ffn_probe.runs.schema import OPTIONAL, TABLES
from tests.runs.pairing import PAIRED_TABLES, write_pair
from tests.runs.recording import BLOCK, SITES, values, write

DATA = values()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    write(folder / "telemetry", DATA, windows=2)
    write_pair(folder / "paired", windows=2)
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of a sound run that has the table under test, to be harmed."""
    parameters = getattr(request.node, "callspec", None)
    table = parameters.params.get("table") if parameters else None
    kind = "paired" if table in PAIRED_TABLES else "telemetry"
    return Path(shutil.copytree(sound / kind, tmp_path / "run"))


def test_the_runs_are_sound_before_they_are_harmed(sound: Path) -> None:
    for kind in ("telemetry", "paired"):
        read_all(sound / kind)
        assert Run.open(sound / kind).manifest.kind == kind
    assert Run.open(sound / "telemetry").sites == SITES


def test_the_two_runs_hold_every_table_once(sound: Path) -> None:
    held = [path.name for path in sound.glob("*/*") if path.is_dir()]
    assert sorted(held) == sorted(TABLES)


def part(folder: Path, table: str) -> Path:
    return sorted((folder / table).glob("*.parquet"))[-1]


def read_all(folder: Path) -> None:
    run = Run.open(folder)
    for name in TABLES:
        run.table(name)
    run.measures()


def assert_refused(folder: Path, path: Path, error: type[FfnProbeError] = RunError) -> str:
    with pytest.raises(error) as caught:
        read_all(folder)
    assert str(path) in str(caught.value)
    return str(caught.value)


# The manifest


def manifest(folder: Path, **changes: Any) -> None:
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_folder_that_is_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="does not exist"):
        Run.open(tmp_path / "none")
    with pytest.raises(RunError, match=r"is not a run: it holds no run\.json"):
        Run.open(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="is not a run"):
        Run.open(tmp_path / "file")
    for name in ("a\0b", "x" * 5000):
        with pytest.raises(RunError):
            Run.open(name)


def test_a_run_near_by_is_named(folder: Path) -> None:
    with pytest.raises(RunError, match=rf"holds no run\.json\. Give its folder: {folder}$"):
        Run.open(folder / "run.json")
    with pytest.raises(RunError, match=r"holds no run\.json\. Runs in it \(1\): run$"):
        Run.open(folder.parent)


def test_a_manifest_cut_anywhere_is_told(folder: Path) -> None:
    whole = (folder / "run.json").read_bytes()
    for size in (0, 1, 17, len(whole) // 2, len(whole) - 2):
        (folder / "run.json").write_bytes(whole[:size])
        assert_refused(folder, folder / "run.json")


@pytest.mark.parametrize(
    "text",
    [b"\xff\xfe\x00", b"[]", b"null", b"3", b'"x"', b"[" * 200_000, b"9" * 10_000, b"{}",
     b'{"schema_version": "1"}', b'{"schema_version": true}', b'{"schema_version": -1}'],
    ids=lambda text: repr(text[:24]),
)  # fmt: skip
def test_json_that_is_no_manifest_is_told(folder: Path, text: bytes) -> None:
    (folder / "run.json").write_bytes(text)
    assert_refused(folder, folder / "run.json")


def test_a_newer_schema_is_told_with_what_to_do(folder: Path) -> None:
    manifest(folder, schema_version=SCHEMA_VERSION + 1, surprise=1)
    message = assert_refused(folder, folder / "run.json", SchemaError)
    assert "Upgrade ffn-probe" in message


def test_a_field_that_is_not_known_is_passed_over(folder: Path) -> None:
    manifest(folder, surprise=[1, 2])
    assert Run.open(folder).blocks == (BLOCK,)


@pytest.mark.parametrize(
    "changes",
    [
        {"windows": -1}, {"windows": 1.5}, {"tokens": "many"}, {"steps": True},
        {"tokens": 10**30}, {"kind": "other"}, {"kind": []}, {"state": "half"}, {"state": {}},
        {"model": []}, {"tags": None}, {"sampling": "x"}, {"warnings": "abc"},
        {"warnings": [1]}, {"folds": 3}, {"folds": [1]}, {"skipped": {"a": 1}},
        {"blocks": "abc"}, {"blocks": [[]]}, {"blocks": [{}]},
        {"device": 3}, {"created": None},
        {"vocabulary": ["a"]}, {"vocabulary": {"1": 2}}, {"vocabulary": {"x": "a"}},
        {"vocabulary": {"1": "a" * 65}}, {"vocabulary": {str(i): "a" for i in range(4097)}},
    ],
    ids=lambda changes: repr(changes)[:40],
)  # fmt: skip
def test_a_field_of_another_type_is_told(folder: Path, changes: dict[str, Any]) -> None:
    manifest(folder, **changes)
    message = assert_refused(folder, folder / "run.json", SchemaError)
    assert next(iter(changes)).removesuffix("s") in message


@pytest.mark.parametrize(
    "changes",
    [{"name": "../../etc/passwd"}, {"name": "/etc/passwd"}, {"name": "a\nb"}, {"name": 3},
     {"name": "a..b"}, {"layer": "0"}, {"experts": None}, {"norm": 3}, {"norm": {"x": 1}},
     {"taps": [3]}, {"taps": [{"role": "hidden"}]}, {"projections": []}, {"flags": 3},
     {"more": 1}],
    ids=repr,
)  # fmt: skip
def test_a_damaged_block_is_told(folder: Path, changes: dict[str, Any]) -> None:
    manifest(folder, blocks=[json.loads(json.dumps(BLOCK.to_dict())) | changes])
    assert_refused(folder, folder / "run.json", SchemaError)


def test_a_giant_manifest_is_refused_unread(folder: Path) -> None:
    os.truncate(folder / "run.json", 1 << 40)
    assert "bytes" in assert_refused(folder, folder / "run.json")


def test_a_pipe_in_place_of_a_file_does_not_hang(folder: Path) -> None:
    path = part(folder, "moments")
    path.unlink()
    os.mkfifo(path)
    assert_refused(folder, path)
    (folder / "run.json").unlink()
    os.mkfifo(folder / "run.json")
    with pytest.raises(RunError, match="is not a run"):
        Run.open(folder)


# Parts as files


@pytest.mark.parametrize("table", TABLES)
def test_a_part_cut_anywhere_is_told(folder: Path, table: str) -> None:
    path = part(folder, table)
    whole = path.read_bytes()
    for size in (0, 3, 4, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert_refused(folder, path)


def test_a_part_of_another_kind_is_told(folder: Path) -> None:
    path = part(folder, "moments")
    path.write_bytes(b"PAR1" + b"\0" * 500 + b"\xff\xff\xff\x7fPAR1")
    assert_refused(folder, path)
    path.write_text("a,b\n1,2\n")
    assert_refused(folder, path)
    path.unlink()
    path.mkdir()
    assert_refused(folder, path)


def test_a_part_of_another_table_is_told(folder: Path) -> None:
    path = part(folder, "moments")
    path.write_bytes(part(folder, "quant").read_bytes())
    assert "no column 'seen_rows'" in assert_refused(folder, path, SchemaError)


def test_a_link_out_of_the_run_is_refused(folder: Path, tmp_path: Path) -> None:
    path = part(folder, "extremes")
    path.rename(tmp_path / "elsewhere.parquet")
    path.symlink_to(tmp_path / "elsewhere.parquet")
    assert "leads out" in assert_refused(folder, path)


def test_a_linked_folder_out_of_the_run_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "extremes").rename(tmp_path / "elsewhere")
    (folder / "extremes").symlink_to(tmp_path / "elsewhere")
    assert "leads out" in assert_refused(folder, folder / "extremes")


def test_a_link_to_itself_is_refused(folder: Path) -> None:
    path = part(folder, "extremes")
    path.unlink()
    path.symlink_to(path)
    assert_refused(folder, path)


def test_a_run_behind_a_link_is_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(folder)
    assert Run.open(tmp_path / "latest").sites == SITES


@pytest.mark.parametrize("table", TABLES)
def test_a_copy_of_a_part_is_not_counted_twice(folder: Path, table: str) -> None:
    path = part(folder, table)
    copy = path.with_name(path.name.replace("-0.parquet", "-0 (1).parquet"))
    shutil.copy(path, copy)
    message = assert_refused(folder, folder / table, SchemaError)
    assert "repeats window 1 of" in message
    assert "remove the copy" in message


def test_a_temporary_or_foreign_file_is_passed_over(folder: Path) -> None:
    expected = Run.open(folder).rows(SITES[0])
    (folder / "moments" / ".part-00000009-0.parquet.tmp").write_bytes(b"half")
    (folder / "moments" / "notes.txt").write_text("mine")
    assert Run.open(folder).rows(SITES[0]) == expected


# Parts as tables


def rewrite(path: Path, change: Callable[[dict[str, list[Any]]], Any], table: str) -> None:
    columns = pq.read_table(path).to_pydict()
    change(columns)
    pq.write_table(pa.Table.from_pydict(columns, schema=TABLES[table]), path)


def put(column: str, value: Any) -> Callable[[dict[str, list[Any]]], Any]:
    """Return a change of the last row's value."""

    def change(columns: dict[str, list[Any]]) -> None:
        columns[column][-1] = value

    return change


def grow(column: str) -> Callable[[dict[str, list[Any]]], Any]:
    """Return a change that makes the last row's list longer by one."""

    def change(columns: dict[str, list[Any]]) -> None:
        columns[column][-1] = [*columns[column][-1], 1]

    return change


GIANT = [2**62, 2**62]

CASES: list[tuple[str, str, Callable[[dict[str, list[Any]]], Any]]] = [
    *((t, "fold", put("fold", fold)) for t in TABLES if t != "metrics" for fold in (16, -4)),
    *(("moments", c, put(c, -1)) for c in ("count", "nan", "pos_inf", "seen_rows", "window")),
    ("moments", "m2", put("m2", -1e-9)),
    ("moments", "mean", put("mean", None)),
    ("moments", "block", put("block", "../../etc/passwd")),
    ("moments", "block", put("block", "/etc/passwd")),
    ("moments", "block", put("block", "a\x1b[2Jb")),
    ("moments", "role", put("role", "")),
    ("moments", "expert", put("expert", -2)),
    ("moments", "count", put("count", 2**63 - 1)),
    ("histograms", "bits", put("bits", 0)),
    ("histograms", "bits", put("bits", 8)),
    ("histograms", "bits", put("bits", -128)),
    ("histograms", "codes", lambda c: (put("codes", [-1, 7])(c), put("counts", [1, 1])(c))),
    ("histograms", "codes", lambda c: (put("codes", [0, 65536])(c), put("counts", [1, 1])(c))),
    ("histograms", "codes", lambda c: (put("codes", [7, 5])(c), put("counts", [1, 1])(c))),
    ("histograms", "codes", lambda c: (put("codes", [7, 7])(c), put("counts", [1, 1])(c))),
    ("histograms", "codes", lambda c: (put("codes", [0x7F81])(c), put("counts", [1])(c))),
    ("histograms", "codes", lambda c: (put("codes", [5, None])(c), put("counts", [1, 1])(c))),
    ("histograms", "counts", grow("counts")),
    ("histograms", "counts", lambda c: (put("codes", [5, 7])(c), put("counts", [1, -1])(c))),
    ("histograms", "counts", lambda c: (put("codes", [5, 7])(c), put("counts", GIANT)(c))),
    ("channels", "mean", grow("mean")),
    ("channels", "count", grow("count")),
    ("channels", "m2", put("m2", [-1.0] * 6)),
    ("channels", "absmax", put("absmax", None)),
    ("extremes", "top_value", grow("top_value")),
    ("extremes", "rows", put("rows", -5)),
    ("extremes", "token_rms_bits", put("token_rms_bits", 100)),
    ("extremes", "token_ratio_counts", grow("token_ratio_counts")),
    ("extremes", "token_absmax_codes", put("token_absmax_codes", None)),
    ("joint", "grid", put("grid", [0, 1])),
    ("joint", "c_gu", grow("c_gu")),
    ("joint", "c_gg", put("c_gg", [-1.0] * 6)),
    ("quant", "signal", grow("signal")),
    ("quant", "noise", put("noise", [-1.0, 1.0])),
    ("quant", "count", put("count", [-1, 1])),
    ("quant", "key", put("key", ["int8:tensor", None])),
    ("weights", "norm_up", grow("norm_up")),
    ("weights", "norm_gate", put("norm_gate", [-1.0] * 6)),
    ("weights", "gain", put("gain", None)),
    ("metrics", "name", put("name", None)),
    ("paired", "error", put("error", -1e-9)),
    ("paired", "energy_b", put("energy_b", -1.0)),
    ("paired", "count", put("count", -1)),
    ("paired", "nonfinite_a", put("nonfinite_a", -1)),
    ("paired", "view", put("view", None)),
    ("paired_channels", "sum_ab", grow("sum_ab")),
    ("paired_channels", "sum_aa", put("sum_aa", [-1.0] * 4)),
    ("activation_error", "codes", grow("codes")),
    ("activation_error", "counts", put("counts", [-1, 1, 1])),
    ("activation_error", "error", put("error", [-1.0, 1.0, 1.0])),
    ("effects", "count", put("count", -1)),
    ("effects", "metric", put("metric", None)),
    ("hypotheses", "rank", put("rank", -1)),
    ("hypotheses", "fix", put("fix", None)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("table", "column", "change"),
    CASES,
    ids=[f"{i}-{t}-{c}" for i, (t, c, _) in enumerate(CASES)],
)
def test_a_value_that_cannot_be_is_told(
    folder: Path, table: str, column: str, change: Callable[[dict[str, list[Any]]], Any]
) -> None:
    path = part(folder, table)
    rewrite(path, change, table)
    assert column in assert_refused(folder, path, SchemaError)


@pytest.mark.parametrize("table", TABLES)
def test_a_column_of_another_type_is_told(folder: Path, table: str) -> None:
    path = part(folder, table)
    whole = pq.read_table(path)
    for i, field in enumerate(whole.schema):
        text = pa.array(["x"] * whole.num_rows)
        pq.write_table(whole.set_column(i, field.name, text), path)
        if not field.type.equals(pa.string()):
            assert repr(field.name) in assert_refused(folder, path, SchemaError)
        pq.write_table(whole.drop_columns([field.name]), path)
        if field.name not in OPTIONAL.get(table, ()):
            assert repr(field.name) in assert_refused(folder, path, SchemaError)


def test_a_column_more_is_passed_over_and_one_twice_refused(folder: Path) -> None:
    path = part(folder, "moments")
    whole = pq.read_table(path)
    expected = Run.open(folder).rows(SITES[0])
    pq.write_table(whole.append_column("more", pa.array([1] * whole.num_rows)), path)
    assert Run.open(folder).rows(SITES[0]) == expected
    pq.write_table(whole.append_column("mean", whole.column("mean")), path)
    assert_refused(folder, path)


def test_text_that_is_no_utf8_is_told(folder: Path) -> None:
    path = part(folder, "moments")
    whole = pq.read_table(path)
    raw = pa.array([b"\xff\xfe"] * whole.num_rows, pa.binary())
    bad = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())
    index = whole.schema.get_field_index("block")
    pq.write_table(whole.set_column(index, whole.schema.field(index), bad), path)
    assert_refused(folder, path)


def test_channels_that_do_not_fit_are_told(folder: Path) -> None:
    path = part(folder, "channels")

    def narrow(columns: dict[str, list[Any]]) -> None:
        for name in ("count", "mean", "m2", "absmax", "active"):
            columns[name] = [row[:-1] for row in columns[name]]

    rewrite(path, narrow, "channels")
    assert "does not fit" in assert_refused(folder, path, SchemaError)


def test_a_claim_of_endless_rows_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ffn_probe.runs.sizes.MAX_ROWS", 2)
    with pytest.raises(SchemaError, match=r"claims \d+ rows and \d+ bytes: refused"):
        read_all(folder)


def test_a_small_file_that_unpacks_to_gigabytes_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ffn_probe.runs.sizes.MAX_BYTES", 1 << 28)
    path = part(folder, "histograms")
    zeros = pa.array(np.zeros(1 << 20, np.int64))
    lists = pa.ListArray.from_arrays(pa.array([0, len(zeros)], pa.int32()), zeros)
    one = pq.read_table(path).slice(0, 1)
    index = one.schema.get_field_index("counts")
    row = one.set_column(index, one.schema.field("counts"), lists)
    with pq.ParquetWriter(path, TABLES["histograms"], compression="zstd") as writer:
        for _ in range(33):
            writer.write_table(row)
    assert path.stat().st_size < 1 << 20
    assert "unpacks to more than" in assert_refused(folder, path, SchemaError)


@pytest.mark.parametrize("table", TABLES)
def test_flipped_bytes_never_crash_the_reader(folder: Path, table: str) -> None:
    """Any damage is either refused in words or leaves a table of the right columns."""
    rng = np.random.default_rng(hash_of(table))
    path = part(folder, table)
    whole = path.read_bytes()
    told = []
    for _ in range(40):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[rng.integers(0, damaged.size, 3)] ^= rng.integers(1, 256, 3).astype(np.uint8)
        path.write_bytes(damaged.tobytes())
        try:
            read_all(folder)
        except FfnProbeError as error:
            told.append(str(error))
    assert len(told) > 10
    assert all(str(path) in message for message in told)


def hash_of(name: str) -> int:
    return sum(ord(letter) * 31**i for i, letter in enumerate(name)) % 2**32


def test_an_open_run_is_read_with_a_warning(tmp_path: Path) -> None:
    write(tmp_path / "run", DATA, windows=2, manifest=Manifest(warnings=("late",)))
    manifest(tmp_path / "run", state="open")
    run = Run.open(tmp_path / "run")
    assert not run.closed
    assert run.problems == ("the run was not closed: its last window may be missing", "late")
    assert run.sites == SITES


def test_flagged_blocks_are_a_problem(folder: Path) -> None:
    block = json.loads(json.dumps(BLOCK.to_dict())) | {"flags": ["shared"]}
    manifest(folder, blocks=[block])
    assert Run.open(folder).problems == ("1 blocks are flagged (first: model.layers.0.mlp)",)
