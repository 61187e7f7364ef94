"""Views of the page of `utgrec space`: answers of an [`Explorer`] as HTML and as choices, a bounded part at a time."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec

from PIL.Image import Image

from hub_cards.code_plots import code_pictures
from hub_cards.fragments import data_address, fragment
from trainers.commands import says_what_is_wrong
from trainers.methods.explorer import Explorer, Item

logger = logging.getLogger(__name__)

BRANCHES = 16  # of a prefix that are shown at once
ITEMS = 16
SHOWN_HISTORY = 3  # latest items of a history that are named
LABEL = 90  # characters of a title among choices
SOURCES = {
    "network": "network",
    "memory": "memory: bought after",
    "text": "text like that of",
    "unknown": "unexplained",
}
CODES = re.compile(r"[\d\s,.·()\[\]-]+")

Choices = list[tuple[str, str]]
Parameters = ParamSpec("Parameters")


def answered(view: Callable[Parameters, str]) -> Callable[Parameters, str]:
    """A view that shows what is wrong with what was asked. Of a mistake in the program it says that there is one, and
    the log has it."""

    @wraps(view)
    def answer(*args: Parameters.args, **kwargs: Parameters.kwargs) -> str:
        try:
            return view(*args, **kwargs)
        except Exception as error:
            return problem(error)

    return answer


def problem(error: Exception) -> str:
    """What is wrong, as the page shows it."""
    if says_what_is_wrong(error):
        return fragment("problem", text=str(error))
    logger.error("a view failed", exc_info=error)
    return fragment("problem", text="Something went wrong on this side; the log of the program says what.")


def introduction(explorer: Explorer, name: str) -> str:
    """What is shown: items, levels, network."""
    return fragment(
        "intro",
        name=name,
        num_items=len(explorer.index),
        level_sizes=explorer.index.level_sizes,
        network=type(explorer.recommender.model).__name__,
        has_memory=explorer.recommender.memory is not None,
    )


def found(explorer: Explorer, query: str) -> Choices:
    """Items that a query finds, as labels and ids."""
    return [(shortened(f"{item.title} ({item.item_id})"), item.item_id) for item in explorer.search(query)]


def shortened(text: str) -> str:
    return text if len(text) <= LABEL else text[: LABEL - 1] + "…"


@answered
def recommendations(
    explorer: Explorer,
    history: str,
    num_items: int = 10,
    exclude_seen: bool | None = None,
    allow: str = "",
    deny: str = "",
) -> str:
    """Recommended items with titles, pictures and sources, see [`Explorer.recommend`]."""
    recommended = explorer.recommend(history, int(num_items), exclude_seen, allow, deny)
    ids = explorer.read_ids(history)
    rows = [{**vars(each), "picture": _picture(explorer, each.item)} for each in recommended]
    return fragment(
        "recommendations",
        history=[explorer.item(item_id) for item_id in ids[-SHOWN_HISTORY:]],
        older=max(0, len(ids) - SHOWN_HISTORY),
        rows=rows,
        has_shares=any(each.shares for each in recommended),
        names=SOURCES,
        pictures=explorer.has_pictures,
    )


@dataclass(frozen=True)
class TreeView:
    """
    A prefix of the tree of semantic IDs.

    Args:
        prefix (`tuple[int, ...]`): its codes.
        start (`int`): the first branch that is shown.
        total (`int`): how many branches there are.
        choices (`list[tuple[str, str]]`): labels of the branches shown, and the codes of each.
        path (`str`): the way to the prefix as HTML; or what is wrong.
        items (`str`): its first items as HTML.
    """

    prefix: tuple[int, ...]
    start: int
    total: int
    choices: Choices
    path: str
    items: str


def tree_view(explorer: Explorer, prefix: Sequence[int] = (), start: int = 0) -> TreeView:
    """A prefix, with its branches from `start` on."""
    prefix = tuple(prefix)
    try:
        rows = explorer.tree.rows(prefix)
        branches, total = explorer.tree.branches(prefix, start, BRANCHES)
    except ValueError as error:
        return TreeView((), 0, 0, [], problem(error), "")
    choices = [
        (
            f"{each.prefix[-1]} – {', '.join(each.words) or 'no words'} – {each.num_items:,} "
            + ("item" if each.num_items == 1 else "items"),
            codes_text(each.prefix),
        )
        for each in branches
    ]
    path = fragment("path", path=explorer.tree.path(prefix)) if prefix else ""
    items = item_list(
        explorer,
        explorer.items(rows[:ITEMS]),
        heading=f"Items of {codes_text(prefix)}" if prefix else "The first items",
        more=len(rows) - ITEMS,
    )
    return TreeView(prefix, start, total, choices, path, items)


def located(explorer: Explorer, text: str) -> TreeView:
    """The prefix that a text means: codes, or the id of an item, whose longest prefix with other items is shown."""
    text = text.strip()
    if not text:
        return tree_view(explorer)
    if text not in explorer.index and CODES.fullmatch(text):
        return tree_view(explorer, [int(code) for code in re.findall(r"\d{1,9}", text)])
    try:
        (item_id, *_) = explorer.read_ids(text)
    except (KeyError, ValueError) as error:
        return TreeView((), 0, 0, [], problem(error), "")
    codes = explorer.item(item_id).codes
    lengths = [length for length in range(len(codes)) if len(explorer.tree.rows(codes[:length])) > 1]
    return tree_view(explorer, codes[: lengths[-1] if lengths else 0])


def codes_text(codes: Sequence[int]) -> str:
    """Codes as people read and write them: `3 17 5`."""
    return " ".join(map(str, codes))


def item_list(
    explorer: Explorer,
    items: Sequence[Item],
    heading: str = "",
    more: int = 0,
    facts: Sequence[str] | None = None,
) -> str:
    """Items with titles, semantic IDs and pictures, and what `facts` say of each."""
    rows = [
        {"item": item, "picture": _picture(explorer, item), "fact": fact}
        for item, fact in zip(items, facts or [""] * len(items), strict=True)
    ]
    return fragment("items", heading=heading, rows=rows, more=max(0, more), pictures=explorer.has_pictures)


@answered
def new_product(explorer: Explorer, fields: Mapping[str, str], image: Image | None = None) -> str:
    """Codes and neighbours of a product, see [`Explorer.new_product`]."""
    product = explorer.new_product(fields, image)
    alike = [item for item, _ in product.same_texts]
    facts = [f"cosine {cosine:.2f}" for _, cosine in product.same_texts]
    same_codes = item_list(explorer, product.same_codes, "Items with most codes in common") if product.path else ""
    return fragment(
        "product",
        codes=product.codes,
        path=product.path,
        same_codes=same_codes,
        same_texts=item_list(explorer, alike, "Items with the texts most alike", facts=facts) if alike else "",
    )


@answered
def health(explorer: Explorer) -> str:
    """How the items use the codes, as a table and plots."""
    found = explorer.health()
    levels = [
        {
            "size": len(counts),
            "used": found.measures[f"used_{level}"],
            "perplexity": found.measures[f"perplexity_{level}"],
            "largest": counts.max() / counts.sum(),
            "is_digit": found.has_digits and level == len(found.level_counts) - 1,
        }
        for level, counts in enumerate(found.level_counts)
    ]
    drawn = len(levels) - found.has_digits
    pictures = code_pictures(
        [counts.tolist() for counts in found.level_counts[:drawn]],
        [counts.tolist() for counts in found.prefix_counts[:drawn]],
    )
    plots = [(title, data_address(content, "image/png")) for title, content in pictures]
    return fragment("health", levels=levels, plots=plots, collision_rate=found.measures.get("collision_rate"))


def _picture(explorer: Explorer, item: Item) -> str | None:
    content = explorer.picture(item.item_id)
    return None if content is None else data_address(content, "image/jpeg")
