"""Budgets: how far a candidate may drift from its reference, and whether it does. No torch."""

from ffn_probe.budgets.budget import Budget
from ffn_probe.budgets.judgement import Check, Judgement
from ffn_probe.budgets.judging import judge
from ffn_probe.budgets.junit import to_junit
from ffn_probe.budgets.limit import Limit

__all__ = ["Budget", "Check", "Judgement", "Limit", "judge", "to_junit"]
