"""The names of what callbacks listen to and write to."""

URL = "url"
PAGE = "page"
NAVIGATION = "navigation"
EXPORTS = "exports"
TITLE = "title"
TITLE_SET = "title-set"
TICK = "tick"
VERSION = "version"
MAP = "map"


def map_id(to: str, key: str = "site", name: str = "") -> dict[str, str]:
    """Return the id of a chart whose cells lead to the page `to`, with `key` set to theirs."""
    return {"type": MAP, "to": to, "key": key, "name": name}
