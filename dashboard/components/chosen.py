"""What an address chooses, held against what there is to choose."""

from collections.abc import Sequence

from dashboard.components.control import Option
from dashboard.components.page import Query
from ffn_probe.errors import UnknownName


def chosen(query: Query, key: str, options: Sequence[Option], default: str = "") -> str:
    """Return what the address chooses for a key; the default, else the first, without one.

    Raises:
        UnknownName: it is none of the options.
    """
    known = [value for value, _ in options]
    value = query.get(key, "") or default or known[0]
    if value not in known:
        raise UnknownName.of(f"choice of {key!r}", value, [name for name in known if name])
    return value
