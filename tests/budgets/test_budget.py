"""Reading a budget: both forms, and an error that names the line for whatever is wrong."""

import math
from pathlib import Path

import pytest

from ffn_probe.budgets import Budget, Limit
from ffn_probe.errors import BudgetError, FfnProbeError, UnknownName


def read(tmp_path: Path, text: str) -> tuple[Limit, ...]:
    path = tmp_path / "budget.toml"
    path.write_text(text)
    return Budget.read(path).limits


def message(tmp_path: Path, text: str) -> str:
    with pytest.raises(FfnProbeError) as caught:
        read(tmp_path, text)
    return str(caught.value)


# ---- what it means ----------------------------------------------------------------------


def test_both_forms_say_the_same(tmp_path: Path) -> None:
    short, long = read(
        tmp_path, '"out.sqnr_db" = ">= 40"\n[[limit]]\nmeasure="sqnr_db"\nrole="out"\nmin=40\n'
    )
    assert (short.measure, short.role, short.block, short.view) == (
        "sqnr_db",
        "out",
        "*",
        "end",
    )
    assert (short.minimum, short.maximum) == (40.0, math.inf)
    assert short.text == long.text == "out.sqnr_db >= 40"


def test_a_limit_may_have_two_bounds_a_block_and_a_view(tmp_path: Path) -> None:
    (found,) = read(
        tmp_path,
        '[[limit]]\nmeasure="norm_ratio"\nblock=-1\nview="local"\nmin=0.9\nmax=1.1\n',
    )
    assert found == Limit("norm_ratio", "*", -1, "local", 0.9, 1.1, found.where)
    assert found.text == "-1/*.norm_ratio (local) >= 0.9, <= 1.1"
    (found,) = read(tmp_path, '"out.norm_ratio" = ">= 0.9, <= 1.1"')
    assert (found.minimum, found.maximum) == (0.9, 1.1)


@pytest.mark.parametrize(
    ("key", "block", "role"),
    [
        ("sqnr_db", "*", "*"), ("h*.sqnr_db", "*", "h*"), ("3/out.sqnr_db", 3, "out"),
        ("-1/out.sqnr_db", -1, "out"), ("h.3.*/out.sqnr_db", "h.3.*", "out"),
    ],
)  # fmt: skip
def test_the_short_form_names_block_and_role(key: str, block: str | int, role: str) -> None:
    found = Limit.parse(key, ">= 1")
    assert (found.block, found.role) == (block, role)


def test_a_key_without_quotes_is_read_as_it_is_meant(tmp_path: Path) -> None:
    one, other = read(tmp_path, 'out.sqnr_db = ">= 40"\n[logits]\nkl = "<= 0.01"\n')
    assert (one.text, other.text) == ("out.sqnr_db >= 40", "logits.kl <= 0.01")


def test_equality_can_be_asked_for(tmp_path: Path) -> None:
    (found,) = read(tmp_path, '"out.sqnr_db" = ">= inf"')
    assert found.holds(math.inf)
    assert not found.holds(150.0)
    assert found.text == "out.sqnr_db >= inf"


def test_no_value_is_within_a_limit_when_it_is_not_a_number() -> None:
    assert not Limit("sqnr_db", minimum=-math.inf, maximum=9.0).holds(math.nan)


def test_a_budget_is_a_file_a_mapping_or_itself(tmp_path: Path) -> None:
    path = tmp_path / "b.toml"
    path.write_text('"out.sqnr_db" = ">= 40"')
    mapping = Budget.of({"out.sqnr_db": ">= 40"})
    assert Budget.of(mapping) is mapping
    assert [limit.text for limit in Budget.of(path).limits] == ["out.sqnr_db >= 40"]
    assert Budget.of({"limit": [{"measure": "kl", "max": 1}]}).limits[0].maximum == 1.0


# ---- what is wrong with it --------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('a = "b"\nx = = 3\n', "budget.toml is no TOML: Invalid value (at line 2, column 5)"),
        ('\n"out.sqnr_bd" = ">= 40"', "no measure 'sqnr_bd'. Did you mean 'sqnr_db'?"),
        ('\n"out.sqnr_bd" = ">= 40"', "budget.toml, line 2)"),
        ('"hiden.sqnr_db" = ">= 40"', "no role 'hiden'. Did you mean 'hidden'?"),
        ('"out.sqnr_db" = "> 40"', "line 1: out.sqnr_db is '> 40'; expected \">= number\""),
        ('"out.sqnr_db" = ">= nan"', "expected \">= number\""),
        ('"out.sqnr_db" = 40', "out.sqnr_db is 40; expected"),
        ('"out.sqnr_db" = ">= 4, <= 3"', "nothing is both >= 4 and <= 3"),
        ('out.x.sqnr_db = ">= 4"', "no role 'out.x'. Did you mean 'out'?"),
        ('".sqnr_db" = ">= 4"', "'.sqnr_db' is no [block/]role.measure"),
        ("", "budget.toml holds no limit; for example"),
        ("limit = 3", "limit is 3; expected tables [[limit]]"),
        ("[[limit]]\nrole='out'\nmin=3", "line 1: a limit needs a measure: one of sqnr_db"),
        ("[[limit]]\nmeasure='kl'", "line 1: *.kl has no bound: give min, max or both"),
        ("[[limit]]\nmeasure='kl'\nmaximum=1", "no key of a limit 'maximum'. Did you mean"),
        ("[[limit]]\nmeasure='kl'\nmax='1'", "line 1: max is '1'; expected a number"),
        ("[[limit]]\nmeasure='kl'\nmax=true", "line 1: max is True; expected a number"),
        ("[[limit]]\nmeasure=3\nmax=1", "line 1: measure is 3; expected text"),
        ("[[limit]]\nmeasure='kl'\nmax=nan", "has no bound"),
        ("#\n[[limit]]\nmeasure='kl'\nmax=1\n[[limit]]\nmeasure='kl'\nview='ende'\nmax=1",
         ("no view 'ende'. Did you mean 'end'? Known (4): end, local, stage, inherited. "
         "(in ")),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in message(tmp_path, text)


def test_the_line_of_the_second_table_is_its_own(tmp_path: Path) -> None:
    text = "# a\n[[limit]]\nmeasure='kl'\nmax=1\n\n[[limit]]\nmeasure='kl'\n"
    assert "budget.toml, line 6: *.kl has no bound" in message(tmp_path, text)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"cannot read .*nowhere\.toml: No such file"):
        Budget.read(tmp_path / "nowhere.toml")
    with pytest.raises(BudgetError, match=r"cannot read .*: Is a directory"):
        Budget.read(tmp_path)
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BudgetError, match=r"x\.toml is not text in UTF-8"):
        Budget.read(path)
    path.write_text("#" * (1 << 21))
    with pytest.raises(BudgetError, match="larger than 1048576 bytes"):
        Budget.read(path)


def test_a_deeply_nested_file_is_an_error(tmp_path: Path) -> None:
    assert "is no TOML" in message(tmp_path, "x = " + "[" * 5000)


def test_an_unknown_measure_of_code_needs_no_file() -> None:
    with pytest.raises(UnknownName, match=r"no measure 'sqnr'. Did you mean 'sqnr_db'"):
        Budget.of({"out.sqnr": ">= 40"})
