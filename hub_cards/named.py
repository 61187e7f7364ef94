"""Offenders that an error message names: the first few, and how many more there are."""

from collections.abc import Collection, Iterable, Sequence
from itertools import islice

# Offenders that one message names.
MAX_NAMED = 10


def named(offenders: Collection, most: int = MAX_NAMED) -> str:
    """
    Offenders as an error message names them.

    Args:
        offenders (`Collection`): anything with a `repr`, most telling first; a NumPy array will do.
        most (`int`, *optional*, defaults to 10): how many are named.

    Example:

    ```python
    >>> f"3 items have no text: {named(['a', 'b', 'c'], most=2)}"
    "3 items have no text: 'a', 'b' and 1 more"
    ```
    """
    first: Iterable = islice(offenders, most)
    more = f" and {len(offenders) - most} more" if len(offenders) > most else ""
    return ", ".join(repr(each.item() if hasattr(each, "item") else each) for each in first) + more


def listed(problems: Sequence[str], separator: str = "\n  ", most: int = MAX_NAMED) -> str:
    """
    Problems that are said in words each, the first few, and how many more there are.

    Args:
        problems (`Sequence[str]`): most telling first.
        separator (`str`, *optional*, defaults to a line break and two blanks): what stands between them.
        most (`int`, *optional*, defaults to 10): how many are said.
    """
    more = [f"and {len(problems) - most} more"] if len(problems) > most else []
    return separator.join([*problems[:most], *more])
