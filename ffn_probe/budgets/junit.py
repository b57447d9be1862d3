"""A judgement as JUnit XML, which continuous integration shows as tests."""

import re
from xml.etree import ElementTree as ET

from ffn_probe.budgets.judgement import Check, Judgement

_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(judgement: Judgement, *, pair: str = "", seconds: float | None = None) -> str:
    """Return one test suite with a test case for every limit at every site.

    Args:
        judgement: what is written.
        pair: the names of reference and candidate, a property of the suite.
        seconds: how long the replay took.
    """
    counts = {"tests": str(len(judgement.checks)), "failures": str(len(judgement.failed))}
    name = _clean(f"ffn-probe {judgement.name}")
    root = ET.Element("testsuites", counts | {"errors": "0", "name": name})
    time = {} if seconds is None else {"time": f"{seconds:.3f}"}
    suite = ET.SubElement(
        root, "testsuite", counts | {"errors": "0", "skipped": "0", "name": name} | time
    )
    if pair:
        properties = ET.SubElement(suite, "properties")
        ET.SubElement(properties, "property", name="pair", value=_clean(pair))
    for check in judgement.checks:
        _case(suite, check)
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, "unicode") + "\n"


def _case(suite: ET.Element, check: Check) -> None:
    case = ET.SubElement(
        suite, "testcase", classname=_clean(check.block or "output"),
        name=_clean(f"{check.place}: {check.limit.text}"),
    )  # fmt: skip
    if not check.passed:
        failure = ET.SubElement(case, "failure", message=_clean(check.reason), type="budget")
        failure.text = _clean(
            f"{check.place} ({check.block}): {check.limit.text}\n{check.reason}\n"
            f"value {check.value:g} {check.unit}, noise floor {check.floor:g}"
        )


def _clean(text: str) -> str:
    """Return text without the characters that XML cannot hold."""
    return _FORBIDDEN.sub("\ufffd", text)
