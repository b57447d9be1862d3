"""Reports: runs and comparisons as one offline file or a folder. No torch, no network."""

from ffn_probe.report.data import schema
from ffn_probe.report.report import FILES, FORMATS, report, report_text

__all__ = ["FILES", "FORMATS", "report", "report_text", "schema"]
