"""Run a function without the rights of root, which may write everywhere."""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

NOBODY = 65534


def as_nobody(function: Callable[[Path], str], path: Path) -> str:
    """Return what the function says in a process without rights."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=_inside, args=(function, path, queue))
    worker.start()
    answer = queue.get(timeout=60)
    worker.join()
    return str(answer)


def _inside(function: Callable[[Path], str], path: Path, queue: Any) -> None:
    if os.geteuid() == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    try:
        queue.put(function(path))
    except Exception as error:  # the parent compares the text
        queue.put(repr(error))
