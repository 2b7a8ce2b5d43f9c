"""What can be wrong with a classifier that is to be explained."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

_LISTED = 30  # names shown in a message; ImageNet models have a thousand


class BlackBoxError(ValueError):
    """A classifier, or an answer of it, cannot be used; the message says what is wrong and what to do."""


def find_name(name: str, names: Sequence[str], what: str) -> int:
    """Position of a name in a list, without regard to case, underscores and spaces at the ends.

    Args:
        name: what the user asks for.
        names: what there is; empty names are never found.
        what: what the names are, for the message, e.g. `"label"`.

    Raises:
        BlackBoxError: for a name that is not there, with the names, or one that is there twice.
    """
    plain = [_plain(n) for n in names]
    found = [i for i, n in enumerate(names) if n and n == name]
    found = found or [i for i, n in enumerate(plain) if n and n == _plain(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise BlackBoxError(f"The {what} {name!r} occurs {len(found)} times (positions {found}); give one.")
    known = [n for n in names if n]
    listed = ", ".join(repr(n) for n in known[:_LISTED]) + (", ..." if len(known) > _LISTED else "")
    close = difflib.get_close_matches(_plain(name), [p for p in plain if p], n=1)
    hint = f" Did you mean {names[plain.index(close[0])]!r}?" if close else ""
    raise BlackBoxError(f"Unknown {what} {name!r}; this classifier has {listed}.{hint}")


def same_name(first: str, second: str) -> bool:
    """Whether two names are one, without regard to case, underscores and spaces at the ends."""
    return _plain(first) == _plain(second)


def _plain(name: str) -> str:
    return str(name).replace("_", " ").strip().casefold()
