"""Long work: made once, told how far it is, bounded, and never in the way of the rest."""

import threading
import time
from collections.abc import Callable

import pytest

from dashboard.work import KEPT, Progress, Work
from ffn_probe.runs.progress import Step, tell, told, told_to


def until(found: Callable[[], object]) -> object:
    """Return the first result that is no Progress."""
    for _ in range(1000):
        result = found()
        if not isinstance(result, Progress):
            return result
    raise AssertionError("it never came")


def test_what_is_quick_is_the_answer() -> None:
    assert Work[int]().get("key", lambda: 3) == 3


def test_what_takes_long_says_how_far_it_is_and_comes_later() -> None:
    work, go = Work[str](), threading.Event()

    def make() -> str:
        tell("reading channels of base", 240, 560)
        assert go.wait(10)
        return "page"

    first = work.get("key", make, wait=0.05)
    assert isinstance(first, Progress)
    assert first.text == "reading channels of base: 240 of 560"
    assert first.share == pytest.approx(240 / 560)
    assert 0.05 <= first.seconds < 5
    go.set()
    assert until(lambda: work.get("key", make, wait=0.05)) == "page"


def test_a_key_is_made_once_whoever_asks() -> None:
    work, go, made = Work[int](), threading.Event(), []

    def make() -> int:
        made.append(1)
        assert go.wait(10)
        return len(made)

    answers: list[object] = []
    asking = [
        threading.Thread(target=lambda: answers.append(work.get("key", make, wait=10)))
        for _ in range(8)
    ]
    for thread in asking:
        thread.start()
    time.sleep(0.2)
    go.set()
    for thread in asking:
        thread.join()
    assert answers == [1] * 8


def test_a_result_is_handed_out_again_at_once_and_then_forgotten() -> None:
    work, made = Work[int](again=0.2), []

    def make() -> int:
        made.append(1)
        return len(made)

    assert [work.get("key", make, wait=5) for _ in range(3)] == [1, 1, 1]
    time.sleep(0.25)
    assert work.get("key", make, wait=5) == 2
    time.sleep(0.25)
    work.get("other", make, wait=5)
    assert set(work._jobs) == {"other"}


def test_an_error_reaches_who_asked_and_the_next_call_tries_again() -> None:
    work, tries = Work[int](), []

    def make() -> int:
        tries.append(1)
        if len(tries) == 1:
            raise ValueError("of all things")
        return 3

    with pytest.raises(ValueError, match="of all things"):
        work.get("key", make, wait=5)
    assert work.get("key", make, wait=5) == 3


def test_a_long_page_does_not_keep_a_short_one_waiting() -> None:
    work, go = Work[str](workers=2), threading.Event()
    assert isinstance(work.get("long", lambda: str(go.wait(10)), wait=0.01), Progress)
    assert work.get("short", lambda: "short", wait=5) == "short"
    go.set()


def test_the_last_asked_for_is_made_first_and_what_was_left_not_at_all() -> None:
    work, go, order = Work[str](workers=1, patience=0.2), threading.Event(), []

    def make(name: str) -> Callable[[], str]:
        return lambda: order.append(name) or name

    work.get("busy", lambda: str(go.wait(10)), wait=0.01)
    for name in ("left", "old", "new"):
        assert isinstance(work.get(name, make(name), wait=0.01), Progress)
    time.sleep(0.25)
    work.get("old", make("old"), wait=0.0)  # somebody still waits for these two
    work.get("new", make("new"), wait=0.0)
    go.set()
    time.sleep(0.2)
    assert order == ["new", "old"]


def test_results_nobody_takes_do_not_pile_up() -> None:
    work = Work[bytes](workers=1)
    for i in range(KEPT * 4):
        work.get(i, lambda: bytes(1000), wait=0.0)
    time.sleep(0.2)
    assert work.get("last", lambda: b"", wait=5) == b""
    work.get("look", lambda: b"", wait=5)
    assert len(work._jobs) <= KEPT + 1


def test_steps_are_told_to_the_listener_only() -> None:
    heard: list[Step] = []
    assert list(told("reading", "ab")) == ["a", "b"]
    with told_to(heard.append):
        assert list(told("reading", "ab")) == ["a", "b"]
        assert list(told("opening", "c")) == ["c"]
        tell("drawing")
    tell("nobody hears")
    said = ["reading: 0 of 2", "reading: 1 of 2", "opening", "drawing"]
    assert [str(step) for step in heard] == said
    assert [step.share for step in heard] == [0.0, 0.5, None, None]
