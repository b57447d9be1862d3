"""A judgement as Markdown, for a pull request."""

from collections.abc import Sequence

from ffn_probe.budgets import Check, Judgement, Limit
from ffn_probe.report.markdown import code, escape, table
from ffn_probe.report.paired_words import named
from ffn_probe.report.words import number

_ROWS = 30
_SIGNS = {True: "\u2705", False: "\u274c"}


def to_markdown(judgement: Judgement, *, pair: tuple[str, str] | None = None) -> str:
    """Return GitHub-flavoured Markdown: the verdict, every limit, and what fails.

    Args:
        judgement: what is written.
        pair: the names of reference and candidate.
    """
    word = "within" if judgement.passed else "over"
    parts = [
        f"## FFN budget: {_SIGNS[judgement.passed]} {word}",
        escape(judgement.sentence),
        f"Reference {code(pair[0])}, candidate {code(pair[1])}." if pair else "",
        _limits(judgement),
        *_failed(judgement),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _limits(judgement: Judgement) -> str:
    head = ("", "limit", "sites", "failed", "worst value", "unit", "where", "floor")
    rows = [_limit(limit, checks) for limit, checks in judgement.by_limit.items()]
    return table(head, rows)


def _limit(limit: Limit, checks: Sequence[Check]) -> tuple[str, ...]:
    failed = [check for check in checks if not check.passed]
    worst = max(failed or checks, key=lambda check: check.excess)
    return (
        _SIGNS[not failed], limit.text, str(len(checks)), str(len(failed)), number(worst.value),
        worst.unit, worst.place, number(worst.floor),
    )  # fmt: skip


def _failed(judgement: Judgement) -> list[str]:
    failed = judgement.failed
    if not failed:
        return []
    rows = [
        (check.place, named(check.block), check.limit.text, check.reason)
        for check in failed[:_ROWS]
    ]
    more = f"\n\nand {len(failed) - _ROWS} more" if len(failed) > _ROWS else ""
    return ["### What fails", table(("where", "block", "limit", "why"), rows) + more]
