"""A browser for the tests that need one."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.report.browsing import launched


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    yield from launched()
