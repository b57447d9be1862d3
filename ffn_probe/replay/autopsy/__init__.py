"""Find the bug that makes a candidate's feed-forward blocks differ from the reference's."""

from ffn_probe.replay.autopsy.autopsy import Autopsy, Finding, autopsy

__all__ = ["Autopsy", "Finding", "autopsy"]
