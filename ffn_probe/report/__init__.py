"""Reports: a drift as one offline file, or as a folder of tables. No torch, no network."""

from ffn_probe.report.report import FORMATS, report

__all__ = ["FORMATS", "report"]
