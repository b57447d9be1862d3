"""The names of what callbacks listen to and write to."""

URL = "url"
PAGE = "page"
TITLE = "title"
TITLE_SET = "title-set"
MAP = "map"


def map_id(to: str) -> dict[str, str]:
    """Return the id of a heatmap whose cells lead to the page at the path `to`."""
    return {"type": MAP, "to": to}
