"""Budget: the limits of a file, or of a mapping in code."""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffn_probe.budgets.limit import Limit
from ffn_probe.errors import BudgetError

_LARGEST = 1 << 20  # bytes; a budget is a page


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits in the order in which they were written; `name` says where they come from."""

    limits: tuple[Limit, ...]
    name: str = "budget"

    @classmethod
    def of(cls, given: "Budget | str | os.PathLike[str] | Mapping[str, object]") -> "Budget":
        """Return the budget itself, of a file, or of a mapping as the file would hold.

        >>> Budget.of({"out.sqnr_db": ">= 40", "logits.kl": "<= 0.01"}).limits[1].text
        'logits.kl <= 0.01'

        Raises:
            BudgetError, UnknownName: see `read`.
        """
        if isinstance(given, Budget):
            return given
        if isinstance(given, Mapping):
            return cls(_limits(given, "the budget", ""))
        return cls.read(given)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Budget":
        """Return the budget of a TOML file.

        A limit is a line of the short form, `"out.sqnr_db" = ">= 40"`, or a table:

            [[limit]]
            measure = "sqnr_db"
            role = "out"        # a glob; every role when left out
            block = "layers.3*" # a glob, or a layer; every block when left out
            view = "local"      # end to end when left out
            min = 40            # max, or both

        Raises:
            BudgetError: the file cannot be read, is no TOML (the message has the line), holds
                no limit, or one that means nothing.
            UnknownName: no measure, role, view or key has a given name.
        """
        file = Path(path)
        try:
            if file.stat().st_size > _LARGEST:
                raise BudgetError(f"{file} is larger than {_LARGEST} bytes: it is no budget")
            text = file.read_text(encoding="utf-8")
            data = tomllib.loads(text)
        except OSError as error:
            raise BudgetError(f"cannot read {file}: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise BudgetError(f"{file} is not text in UTF-8: {error.reason}") from error
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise BudgetError(f"{file} is no TOML: {error}") from error
        return cls(_limits(data, str(file), text), file.name)


def _limits(data: Mapping[str, object], name: str, text: str) -> tuple[Limit, ...]:
    long = data.get("limit", [])
    if not isinstance(long, list) or not all(isinstance(item, Mapping) for item in long):
        raise BudgetError(f"{name}: limit is {long!r}; expected tables [[limit]]")
    found = [Limit.parse(key, bounds, _place(name, text, key)) for key, bounds in _flat(data)]
    starts = [number for number, line in _lines(text) if re.match(r"\s*\[\[\s*limit", line)]
    for ordinal, item in enumerate(long):
        line = f", line {starts[ordinal]}" if ordinal < len(starts) else ""
        found.append(Limit.from_table(item, f"{name}{line}"))
    if not found:
        raise BudgetError(f'{name} holds no limit; for example "out.sqnr_db" = ">= 40"')
    return tuple(found)


def _flat(data: Mapping[str, object], before: str = "") -> Iterator[tuple[str, object]]:
    """Yield the short limits; a key with dots that TOML took for tables is put together."""
    for key, value in data.items():
        if not before and key == "limit":
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield before + key, value


def _lines(text: str) -> Iterator[tuple[int, str]]:
    return enumerate(text.splitlines(), 1)


def _place(name: str, text: str, key: str) -> str:
    """Return the file and the line on which a key stands, as far as it can be told."""
    wanted = (key, key.rpartition(".")[2])
    for spelling in wanted:
        for number, line in _lines(text):
            written: Any = line.partition("=")[0].replace('"', "").replace("'", "")
            if "".join(written.split()) == spelling:
                return f"{name}, line {number}"
    return name
