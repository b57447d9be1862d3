"""Discovery: from a model and one example to its feed-forward blocks."""

from ffn_probe.discover.discover import Scan, Skipped, discover, scan

__all__ = ["Scan", "Skipped", "discover", "scan"]
