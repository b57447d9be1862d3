"""Judging a pair: within, over, and what cannot be told."""

import json
import math
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from ffn_probe.budgets import Budget, Judgement, judge, to_junit
from ffn_probe.errors import BudgetError, FfnProbeError
from ffn_probe.report.budget_markdown import to_markdown
from ffn_probe.runs import Run
from tests.budgets.pairs import measured, with_value

SAMPLES = Path(__file__).parents[2] / "sample_runs"
LIMITS = {"out.sqnr_db": ">= 40", "logits.kl": "<= 0.01"}


def judged(limits: dict[str, object], **pair: object) -> Judgement:
    return judge(Budget.of(limits), measured(**pair))  # type: ignore[arg-type]


def test_a_healthy_pair_is_within() -> None:
    found = judged(LIMITS)
    assert (found.passed, found.exit_code, len(found.checks)) == (True, 0, 5)
    assert found.sentence == "Within budget: 2 limits at 5 sites."


def test_one_bad_block_is_over_and_named() -> None:
    found = judged(LIMITS, bad=1)
    assert (found.passed, found.exit_code) == (False, 1)
    assert [(c.layer, c.role, c.reason) for c in found.failed] == [(1, "out", "33.3 dB < 40")]
    assert found.sentence == (
        "Over budget: 1 of 2 limits, at 1 of 5 sites; the first is layer 1 out, sqnr_db: "
        "33.3 dB < 40."
    )


def test_a_bound_itself_is_within() -> None:
    assert judged({"out.sqnr_db": ">= 60, <= 60"}).passed
    assert not judged({"out.sqnr_db": ">= 60.0001"}).passed


@pytest.mark.parametrize(
    ("limit", "layers"),
    [
        ({"1/out.sqnr_db": ">= 40"}, [1]), ({"-1/out.sqnr_db": ">= 40"}, [3]),
        ({"layers.[23]*/out.sqnr_db": ">= 40"}, [2, 3]),
        ({"-1/*.sqnr_db": ">= 40"}, [3, 3, 3, 3]),
        ({"*.sqnr_db": ">= 40"}, [*sorted([0, 1, 2, 3] * 4), -1]),
        ({"*.kl": "<= 1"}, [-1]), ({"*/h*.cosine": ">= 0"}, [0, 1, 2, 3]),
    ],
)  # fmt: skip
def test_globs_and_layers_choose_sites(limit: dict[str, object], layers: list[int]) -> None:
    assert [check.layer for check in judged(limit).checks] == layers


def test_a_view_is_judged_apart() -> None:
    site = (2, "layers.2.ffn", "out", "local")
    pair = with_value(measured(), site, "sqnr_db", 12.0)
    end = {"measure": "sqnr_db", "role": "out", "min": 40}
    assert judge(Budget.of({"limit": [end]}), pair).passed
    local = judge(Budget.of({"limit": [end | {"view": "local"}]}), pair)
    assert [check.layer for check in local.failed] == [2]


# ---- what cannot be told ----------------------------------------------------------------


def test_values_that_are_not_paired_fail_with_the_reason() -> None:
    found = judged(LIMITS, reasons={2: "384 channels against 256"})
    (check,) = found.failed
    assert check.reason == "it cannot be told: 384 channels against 256"
    assert judged({"*.cka": ">= 0.4"}, reasons=dict.fromkeys(range(4), "x")).passed


def test_a_value_that_is_not_a_number_fails() -> None:
    site = (0, "layers.0.ffn", "out", "end")
    pair = with_value(measured(), site, "sqnr_db", math.nan)
    (check,) = judge(Budget.of(LIMITS), pair).failed
    assert check.reason == "it cannot be told: the value is not a number"


def test_values_that_are_not_finite_in_the_candidate_alone_fail() -> None:
    site = (0, "layers.0.ffn", "out", "end")
    pair = with_value(measured(), site, "nonfinite_b", 3.0)
    (check,) = judge(Budget.of(LIMITS), pair).failed
    assert check.reason.startswith("3 more values are not finite in the candidate")
    both = with_value(pair, site, "nonfinite_a", 3.0)
    assert judge(Budget.of(LIMITS), both).passed


def test_outputs_that_were_not_compared_fail() -> None:
    (check,) = judged(LIMITS, output=False).failed
    assert check.reason == "it cannot be told: the models' outputs were not compared"
    assert check.place == "output"


def test_a_measure_that_was_not_taken_fails() -> None:
    (check, *_) = judged({"logits.loss_difference": "<= 1"}).failed
    assert check.reason == "it cannot be told: the batches hold no tokens or labels to score"
    (check, *_) = judged({"out.gain_slope_max": "<= 1"}).failed
    assert check.reason == "it cannot be told: the measure was not taken here"


def test_a_limit_beyond_the_noise_floor_says_so() -> None:
    (check, *_) = judged({"out.sqnr_db": ">= 120"}).failed
    assert check.reason == "60 dB < 120; the noise floor itself is 110"


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ({"gate_act.sqnr_db": ">= 1"}, ("the pair has no such site in the view 'end'. Its "
         "roles there: gate, hidden, logits, normed, out")),
        ({"9/out.sqnr_db": ">= 1"}, "no block 9. Blocks: layers.0.ffn, layers.1.ffn"),
        ({"h.*/out.sqnr_db": ">= 1"}, "no block 'h.*'. Blocks: layers.0.ffn"),
        ({"out.kl": "<= 1"}, "kl is a measure of the model's output (role logits), not of"),
        ({"logits.cosine": ">= 1"}, "cosine is a measure of blocks, not of the model's output"),
        ({"limit": [{"measure": "cka", "view": "stage", "min": 0}]}, "in the view 'stage'"),
    ],
)  # fmt: skip
def test_a_limit_about_nothing_is_an_error(limit: dict[str, object], expected: str) -> None:
    with pytest.raises(BudgetError) as caught:
        judged(limit)
    assert expected in str(caught.value)


def test_a_run_of_one_model_cannot_be_judged() -> None:
    with pytest.raises(FfnProbeError, match="is a telemetry run; a budget judges a paired run"):
        judge(Budget.of(LIMITS), Run.open(SAMPLES / "ln-gelu"))


# ---- how it is written ------------------------------------------------------------------


def test_junit_has_a_case_for_every_site_and_its_failure() -> None:
    root = ET.fromstring(to_junit(judged(LIMITS, bad=1), pair="a to b", seconds=2.5))
    suite = root.find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures"), suite.get("time")) == ("5", "1", "2.500")
    cases = suite.findall("testcase")
    assert len(cases) == 5
    failed = [case for case in cases if case.find("failure") is not None]
    assert [case.get("name") for case in failed] == ["layer 1 out: out.sqnr_db >= 40"]
    failure = failed[0].find("failure")
    assert failure is not None
    assert failure.get("message") == "33.3 dB < 40"


def test_junit_holds_any_name() -> None:
    evil = 'a<b>&"\x00\x1b\ud800'
    pair = measured(bad=0)
    pair = type(pair)({(a, evil, c, d): v for (a, _, c, d), v in pair.values.items()}, {})
    text = to_junit(judge(Budget.of({"out.sqnr_db": ">= 40"}), pair), pair=evil)
    root = ET.fromstring(text.encode())
    case = root.find("testsuite/testcase")
    assert case is not None
    assert case.get("classname") == 'a<b>&"\ufffd\ufffd\ufffd'


def test_markdown_says_which_limit_fails_where() -> None:
    text = to_markdown(judged(LIMITS, bad=1), pair=("a<b>", "c|d"))
    assert text.startswith("## FFN budget: \u274c over\n\nOver budget: 1 of 2 limits")
    assert "| \u274c | out.sqnr\\_db &gt;= 40 | 4 | 1 | 33.3 | dB | layer 1 out | 110 |" in text
    assert "| \u2705 | logits.kl &lt;= 0.01 | 1 | 0 | 0.0003 |" in text
    assert "<code>a&lt;b&gt;</code>, candidate <code>c\\|d</code>" in text
    healthy = to_markdown(judged(LIMITS))
    assert "\u2705 within" in healthy
    assert "What fails" not in healthy


def test_json_and_the_table_say_the_same() -> None:
    found = judged(LIMITS, bad=1)
    data = json.loads(found.to_json())
    assert (data["passed"], data["sentence"]) == (False, found.sentence)
    table = found.table()
    assert [c["value"] for c in data["checks"]] == list(table["value"])
    assert data["checks"][0]["max"] == "inf"
    assert list(table["reason"]) == [c["reason"] for c in data["checks"]]
