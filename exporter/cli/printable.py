"""Makes names from outside safe for a terminal: control characters could move its cursor or change its title."""


def printable(text: str) -> str:
    """The text with everything that is not printable shown as an escape."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)
