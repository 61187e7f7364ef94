"""Rules of a [`Recommender`], and the file in its folder that holds them and what was measured."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from modeling_utgrec.checkpoint_format import check_format_version
from tokenization_items.files import read_json_object, read_settings

RECOMMENDER_FILE = "recommender.json"  # of [`Recommender`]
SETTINGS: dict[str, tuple[type, ...]] = {"rules": (dict, type(None)), "facts": (dict, type(None))}


@dataclass(frozen=True)
class RecommendationRules:
    """
    What is recommended, whatever network and memory say; a call of [`~Recommender.recommend`] may say otherwise.

    Args:
        exclude_seen (`bool`, *optional*, defaults to `True`): never an item of the history.
        deny (`tuple[str, ...]`, *optional*): items never to recommend, such as those out of stock.
        allow (`tuple[str, ...]`, *optional*): the items to choose from; None: all.

    Raises:
        TypeError: deny or allow is one text in place of several ids.
    """

    exclude_seen: bool = True
    deny: tuple[str, ...] = ()
    allow: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("deny", "allow"):
            value = getattr(self, name)
            if isinstance(value, str) or (name == "deny" and value is None):
                raise TypeError(f"{name} is a list of item ids, got {value!r}.")
            object.__setattr__(self, name, None if value is None else tuple(value))


def read_recommender(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    Rules and facts of a [`Recommender`]'s folder; empty where there are none.

    Raises:
        ValueError: the file is broken, or one of another format version.
    """
    file = folder / RECOMMENDER_FILE
    if not file.is_file():
        return {}, {}
    check_format_version(read_json_object(file).get("format_version"), str(file))
    values = read_settings(file, SETTINGS)
    return values["rules"] or {}, values["facts"] or {}


def saved_rules(folder: Path) -> RecommendationRules:
    """
    The rules of a [`Recommender`]'s folder; the defaults where there are none.

    Raises:
        ValueError: the file is broken, or one of another format version.
    """
    given, _ = read_recommender(folder)
    names = [each.name for each in fields(RecommendationRules) if each.name in given]
    try:
        return RecommendationRules(**{name: given[name] for name in names})
    except TypeError as error:
        raise ValueError(f"{folder / RECOMMENDER_FILE}: {error}") from error


__all__ = ["RECOMMENDER_FILE", "RecommendationRules", "read_recommender", "saved_rules"]
