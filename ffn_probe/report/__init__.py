"""Reports: a drift or a paired run as one offline file or a folder. No torch, no network."""

from ffn_probe.report.report import FORMATS, report, report_text

__all__ = ["FORMATS", "report", "report_text"]
