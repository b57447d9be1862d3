"""Derived values: made once for all threads, weighed, and let go when they are too many."""

import threading
import time

import numpy as np
import pandas as pd
import pytest

from dashboard.memo import Memo, weight

MEGABYTE = 1 << 20


def block(megabytes: int = 1) -> np.ndarray:
    return np.zeros(megabytes * MEGABYTE, np.uint8)


def test_threads_that_ask_at_once_get_one_value() -> None:
    memo, made, found = Memo(MEGABYTE), [], []

    def make() -> object:
        time.sleep(0.05)
        made.append(1)
        return object()

    threads = [
        threading.Thread(target=lambda: found.append(memo.get("key", make))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert len(set(map(id, found))) == 1


def test_what_was_not_asked_for_longest_goes_first() -> None:
    memo, made = Memo(3 * MEGABYTE + 4096), []
    for key in ("a", "b", "c", "a", "d", "a", "b"):
        memo.get(key, lambda key=key: made.append(key) or block())
    assert made == ["a", "b", "c", "d", "b"]
    assert memo.nbytes <= 3 * MEGABYTE + 4096
    assert len(memo) == 3


def test_one_value_that_is_too_large_stays_until_the_next() -> None:
    memo = Memo(MEGABYTE)
    big = memo.get("big", lambda: block(4))
    assert memo.get("big", lambda: None) is big
    memo.get("small", lambda: 1)
    assert memo.nbytes < MEGABYTE


def test_a_failure_is_raised_for_all_and_kept_for_none() -> None:
    memo = Memo(MEGABYTE)
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            memo.get("key", lambda: int("no"))
    assert memo.get("key", lambda: 3) == 3


def test_one_value_may_be_made_of_another() -> None:
    memo = Memo(MEGABYTE)
    assert memo.get("outer", lambda: memo.get("inner", lambda: 3) + 1) == 4


@pytest.mark.parametrize(
    ("value", "least"),
    [
        (block(2), 2 * MEGABYTE),
        ({"x": [block(1), (block(1),)]}, 2 * MEGABYTE),
        (pd.DataFrame({"x": np.zeros(MEGABYTE)}), 8 * MEGABYTE),
        ("x" * MEGABYTE, MEGABYTE),
    ],
)
def test_the_weight_of_a_value_is_that_of_its_arrays(value: object, least: int) -> None:
    assert least <= weight(value) < 2.2 * least


def test_a_value_that_holds_itself_is_weighed() -> None:
    value: list[object] = [block()]
    value.append(value)
    assert MEGABYTE <= weight(value) < 2 * MEGABYTE
