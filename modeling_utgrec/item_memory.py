"""Memory of a catalogue: which items follow which, and which are alike in content, as sparse rows beside the items.

A generative recommender generalises over semantic IDs; what was seen is remembered better than learnt (Khandelwal et
al., Generalization through Memorization, ICLR 2020; for generative recommendation arXiv 2603.19809). The memory is a
linear model, SLIT (Choi et al., WWW 2021) with content,

    m_u(i) = d_i·Σ_j a_j·B[j, i] + w_u·Σ_j a_j·cos(j, i) + ζ_u·r_i·Σ_j a_j·[b_j = b_i] + β·Σ_j a_j·[j = i]
             + δ·t_i + ε·R[p_u, p_i]

over the items `j` of a user's history with weights `a_j` = 1/place from its end, and `w_u` = w·(1 + κ / (count of
the last item + 1)), `ζ_u` in the same way. `t_i` is the item's trend, the log of its share among the latest
interactions of the users to its share among all: demand drifts, and what is recommended comes after it. The
histories end at different times, and each goes on with what is of its time: `p_i` is the item's period, one of
[`PERIODS`] that are read from the order of the sequences alone, `p_u` that of the history's last item, and `R[p, q]`
the log of how much likelier than chance period `q` follows period `p`. `b_i` is the item's brand, and `r_i` = log(n
/ items of the brand) / log n, for a brand that few items have says more. `d_i` = ((count of i + 1) / c)^-α takes
from transitions to items that are popular with everybody; c is the count of a usual interaction's item, the
geometric mean. β is how much sooner than others an item is taken again by who has had it, or later: below 0 where
nobody does. Bytes an item are kept, whatever the size of the catalogue: of B the largest entries of each row, the
items nearest in content, and content vectors. A user's candidates are the items in the rows of its history; of these
the whole of the cosine, brand, trend and period count, for the rows alone would take the content from all but the
nearest. `generation_memory.py` mixes the memory into the beam search.
"""

import copy
import math
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .memory_content import (
    CONTENT_TENSORS,
    MemoryContent,
    check_encoder,
    check_items,
    checked_content,
    place_neighbours,
    unit_content,
)
from .memory_settings import MemorySettings

PERIOD_TENSORS = ("periods", "period_rates")  # of [`MemoryPeriods`], in files
RECENT_ITEMS = 3  # latest interactions of a user that count for the trend, weight 1/place from the end
RECENT_UNIT = 6  # in whole numbers of 1/6, lcm(1, 2, 3): what is added or taken away later is so exactly
TREND_PRIOR = 5.0  # interactions that every item has beside its own, so that few of them make no trend
PERIODS = 16  # spans of time of as many interactions each


class MemoryPeriods(NamedTuple):
    """
    What an [`ItemMemory`] keeps of the time that the items are of.

    Args:
        periods (`torch.IntTensor` of shape `(num_items,)`): p, the period of each item, int8; -1 for none.
        period_rates (`torch.FloatTensor` of shape `(P, P)`): R, the log of how much likelier than chance an item of
            the second period follows one of the first.
    """

    periods: Tensor
    period_rates: Tensor


class ItemMemory:
    """
    Transitions and likeness of the items of a catalogue, as sparse rows: row `i` belongs to item `i` of the trie.

    Args:
        transition_items (`torch.IntTensor` of shape `(num_items, k)`): items that follow each item; -1 for none.
        transition_weights (`torch.Tensor` of shape `(num_items, k)`): `B` there, kept in float16.
        counts (`torch.IntTensor` of shape `(num_items,)`): training interactions of each item.
        settings ([`MemorySettings`], *optional*): how it is read.
        content ([`MemoryContent`], *optional*): what the items are like.
        recent (`torch.IntTensor` of shape `(num_items,)`, *optional*): latest interactions of the users by item: the
            last one counts 6, the one before 3, the third 2.
        periods ([`MemoryPeriods`], *optional*): the time that the items are of.
        brands (`torch.LongTensor` of shape `(num_items,)`, *optional*): a number for each brand; -1 for none.

    Raises:
        ValueError: if shapes disagree, an item is outside of the catalogue, a number is not finite, or content, trend,
            periods or brands have a weight and there are none.
    """

    def __init__(
        self,
        transition_items: Tensor,
        transition_weights: Tensor,
        counts: Tensor,
        settings: MemorySettings | None = None,
        content: MemoryContent | None = None,
        recent: Tensor | None = None,
        periods: MemoryPeriods | None = None,
        brands: Tensor | None = None,
    ):
        self.transition_items, self.transition_weights = _checked_rows(transition_items, transition_weights)
        self.content = None if content is None else checked_content(content, self.num_items)
        self.counts = self._checked_counts("counts", counts)
        self.recent = None if recent is None else self._checked_counts("recent", recent)
        self.trend = self._trend()
        self.usual_count = self._usual_count()
        self.periods = None if periods is None else _checked_periods(periods, self.num_items)
        self.brands = None if brands is None else _checked_brands(brands, self.num_items)
        self.brand_sizes = self._brand_sizes()
        self.settings = self._checked_settings(MemorySettings() if settings is None else settings)

    def _checked_counts(self, name: str, counts: Tensor) -> Tensor:
        if counts.shape != (self.num_items,) or counts.is_floating_point() or (counts < 0).any():
            raise ValueError(
                f"{name} of an item memory must be {self.num_items} whole numbers of at least 0, got "
                f"{counts.dtype} of shape {tuple(counts.shape)}."
            )
        return counts.to(torch.int32)

    def _trend(self) -> Tensor | None:
        """t of the items, float32 `(num_items,)`: of one without interactions 0."""
        if self.recent is None:
            return None
        counts = self.counts.double()
        recent = self.recent.double() * (counts.sum() / self.recent.sum().clamp(min=1))
        return ((recent + TREND_PRIOR) / (counts + TREND_PRIOR)).log().float()

    def _brand_sizes(self) -> Tensor | None:
        """Items of each item's brand, int32 `(num_items,)`: of one without a brand 0."""
        if self.brands is None:
            return None
        _, places, sizes = self.brands.unique(return_inverse=True, return_counts=True)
        return sizes[places].to(torch.int32).masked_fill(self.brands < 0, 0)

    def _usual_count(self) -> float:
        """c: of the items of all interactions, the geometric mean of their count and 1."""
        counts = self.counts.double()
        return math.exp(float((counts * counts.log1p()).sum() / counts.sum().clamp(min=1)))

    def _checked_settings(self, settings: MemorySettings) -> MemorySettings:
        if settings.content_weight and self.content is None:
            raise ValueError(
                f"content_weight is {settings.content_weight}, but the memory has no similar items: build it with "
                "content embeddings, or with content_weight 0."
            )
        if settings.trend_weight and self.recent is None:
            raise ValueError(
                f"trend_weight is {settings.trend_weight}, but the memory does not know the latest interactions: "
                "build it anew, or with trend_weight 0."
            )
        if settings.period_weight and self.periods is None:
            raise ValueError(
                f"period_weight is {settings.period_weight}, but the memory does not know the items' periods: build "
                "it anew, or with period_weight 0."
            )
        if settings.brand_weight and self.brands is None:
            raise ValueError(
                f"brand_weight is {settings.brand_weight}, but the memory does not know the items' brands: build it "
                "with them, or with brand_weight 0."
            )
        return settings

    @property
    def num_items(self) -> int:
        return len(self.transition_items)

    @property
    def device(self) -> torch.device:
        return self.transition_items.device

    @property
    def nbytes(self) -> int:
        """Size of the tensors in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    @property
    def is_silent(self) -> bool:
        """Whether a search is the network's alone, g = 0."""
        return self.settings.gate is None and self.settings.mixing_weight == 0

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that there are, by their names in files."""
        named = {"transition_items": self.transition_items, "transition_weights": self.transition_weights}
        named["counts"] = self.counts
        if self.content is not None:
            named |= zip(CONTENT_TENSORS, self.content, strict=True)
        if self.periods is not None:
            named |= zip(PERIOD_TENSORS, self.periods, strict=True)
        named |= {} if self.brands is None else {"brands": self.brands}
        return named if self.recent is None else named | {"recent": self.recent}

    def to(self, device: torch.device | str) -> "ItemMemory":
        """The memory with its tensors on `device` (itself, if it is there already)."""
        if torch.empty(0, device=device).device == self.device:
            return self
        moved = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(moved, name, value.to(device))
        if self.content is not None:
            moved.content = MemoryContent(*(each.to(device) for each in self.content))
        if self.periods is not None:
            moved.periods = MemoryPeriods(*(each.to(device) for each in self.periods))
        return moved

    def with_settings(self, **changes: Any) -> "ItemMemory":
        """
        The memory read in another way; the tensors are shared.

        Args:
            changes: of [`MemorySettings`].
        """
        changed = copy.copy(self)
        changed.settings = self._checked_settings(replace(self.settings, **changes))
        return changed

    def select(self, rows: Tensor) -> "ItemMemory":
        """
        The memory of some of the items, or of the same in another order. Trend and discount are of the items that are
        there then, as of a memory that was saved with them and read again.

        Args:
            rows (`torch.LongTensor` of shape `(num_selected,)`): items, each once; -1 for one without any past.

        Raises:
            ValueError: if rows are no such numbers.
        """
        rows = rows.to(self.device)
        if rows.ndim != 1 or rows.is_floating_point() or not len(rows):
            raise ValueError(
                f"rows must be whole numbers of shape (num_selected,), got {rows.dtype} {(*rows.shape,)}."
            )
        outside = (rows < -1) | (rows >= self.num_items)
        if outside.any():
            raise ValueError(
                f"rows must be those of the {self.num_items} items or -1, got {rows[outside][:10].tolist()}."
            )
        taken, times = rows[rows >= 0].unique(return_counts=True)
        if (times > 1).any():
            raise ValueError(f"rows must have each item once, got {taken[times > 1][:10].tolist()} more often.")
        known, safe = rows >= 0, rows.clamp(min=0)
        new_row = torch.full((self.num_items + 1,), -1, dtype=torch.int32, device=self.device)  # -1 is the last place
        new_row[rows[known]] = torch.arange(len(rows), dtype=torch.int32, device=self.device)[known]
        selected = copy.copy(self)

        def of(items: Tensor) -> Tensor:
            return new_row[items[safe].long()].masked_fill_(~known[:, None], -1)

        selected.transition_items = of(self.transition_items)
        selected.transition_weights = self.transition_weights[safe].masked_fill(selected.transition_items < 0, 0)
        if self.content is not None:
            vectors = self.content.vectors[safe].masked_fill(~known[:, None], 0)
            selected.content = self.content._replace(similar_items=of(self.content.similar_items), vectors=vectors)
        selected.counts = self.counts[safe].masked_fill(~known, 0)
        if self.recent is not None:
            selected.recent = self.recent[safe].masked_fill(~known, 0)
        selected.trend, selected.usual_count = selected._trend(), selected._usual_count()
        if self.periods is not None:
            selected.periods = self.periods._replace(periods=self.periods.periods[safe].masked_fill(~known, -1))
        if self.brands is not None:
            selected.brands = self.brands[safe].masked_fill(~known, -1)
            selected.brand_sizes = selected._brand_sizes()
        return selected

    def extend(self, num_new: int, content: Tensor | None = None, brands: Tensor | None = None) -> "ItemMemory":
        """
        The memory with further items behind those that there are: nothing followed them yet, they are of the last
        period, and their content makes them neighbours, both ways. What was kept of an item's neighbours gives way to
        nearer ones.

        Args:
            num_new (`int`): items to add.
            content (`torch.Tensor` of shape `(num_items + num_new, width)`, *optional*): content embeddings of all
                items, from the encoder of the others; needed if and only if the memory has similar items. Of shape
                `(num_new, width)`, those of the new items alone: of the others the kept vectors are taken.
            brands (`torch.LongTensor` of shape `(num_new,)`, *optional*): of the new items, as the memory numbers
                them; by default they have none. A memory without brands leaves them.

        Raises:
            ValueError: if content is missing or unexpected, of another width or not finite, or that of most items is
                another than before; or `num_new` is below 0.
        """
        if num_new < 0:
            raise ValueError(f"num_new must be at least 0, got {num_new}: `select` takes items away.")
        extended = copy.copy(self)
        none = self.transition_items.new_full((num_new, self.transition_items.shape[1]), -1)
        extended.transition_items = torch.cat((self.transition_items, none))
        extended.transition_weights = torch.cat((self.transition_weights, torch.zeros_like(none).half()))
        extended.counts = torch.cat((self.counts, self.counts.new_zeros(num_new)))
        if self.recent is not None and self.trend is not None:
            extended.recent = torch.cat((self.recent, self.recent.new_zeros(num_new)))
            extended.trend = torch.cat((self.trend, self.trend.new_zeros(num_new)))
        if self.periods is not None:
            periods, rates = self.periods
            added = periods.new_full((num_new,), len(rates) - 1)
            extended.periods = MemoryPeriods(torch.cat((periods, added)), rates)
        if self.brands is not None:
            theirs = self.brands.new_full((num_new,), -1) if brands is None else _checked_brands(brands, num_new)
            extended.brands = torch.cat((self.brands, theirs.to(self.device)))
            extended.brand_sizes = extended._brand_sizes()
        if self.content is None:
            if content is not None:
                raise ValueError("The memory has no similar items: it was built without content.")
            return extended
        if content is None:
            raise ValueError("The memory has similar items: content embeddings of all items are needed to add some.")
        if content.ndim == 2 and len(content) == num_new:
            known = self.content.vectors.float() @ self.content.projection.T
            unit = torch.cat((known, unit_content(content.to(self.device).float(), num_new, self.content.mean)))
        else:
            unit = unit_content(content.to(self.device), self.num_items + num_new, self.content.mean)
            check_encoder(self.content, unit[: self.num_items])
        rows = torch.arange(self.num_items, len(unit), device=self.device)
        items = torch.nn.functional.pad(self.content.similar_items, (0, 0, 0, num_new), value=-1)
        added = (unit[rows] @ self.content.projection).half()
        extended.content = self.content._replace(
            similar_items=place_neighbours(items, unit, rows), vectors=torch.cat((self.content.vectors, added))
        )
        return extended

    def renew(self, rows: Tensor, content: Tensor | None = None, brands: Tensor | None = None) -> "ItemMemory":
        """
        The memory after some items have become others: their content makes other neighbours, both ways, and their
        brand is another. What followed them still does.

        Args:
            rows (`torch.LongTensor` of shape `(num_renewed,)`): the items, each once.
            content (`torch.Tensor` of shape `(num_renewed, width)`, *optional*): their content embeddings, from the
                encoder of the others; by default they keep theirs.
            brands (`torch.LongTensor` of shape `(num_renewed,)`, *optional*): theirs, as the memory numbers them; by
                default they keep them. A memory without brands leaves them.

        Raises:
            ValueError: if content is unexpected, of another width or not finite.
        """
        rows, renewed = rows.to(self.device), copy.copy(self)
        if self.brands is not None and brands is not None:
            theirs = _checked_brands(brands, len(rows)).to(self.device)
            renewed.brands = self.brands.index_copy(0, rows, theirs)
            renewed.brand_sizes = renewed._brand_sizes()
        if content is None:
            return renewed
        if self.content is None:
            raise ValueError("The memory has no similar items: it was built without content.")
        theirs = unit_content(content.to(self.device).float(), len(rows), self.content.mean)
        unit = (self.content.vectors.float() @ self.content.projection.T).index_copy_(0, rows, theirs)
        items = self.content.similar_items
        items = place_neighbours(items.masked_fill(torch.isin(items, rows), -1), unit, rows)
        vectors = self.content.vectors.index_copy(0, rows, (theirs @ self.content.projection).half())
        renewed.content = self.content._replace(similar_items=items, vectors=vectors)
        return renewed

    def __repr__(self) -> str:
        content = "" if self.content is None else f", similar_items={self.content.similar_items.shape[1]}"
        return f"ItemMemory(num_items={self.num_items}, transitions={self.transition_items.shape[1]}{content})"


def _checked_rows(items: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Transitions in int32 and float16, if they are of one shape, within the catalogue and finite."""
    check_items("transition", items)
    if items.shape != weights.shape:
        raise ValueError(
            f"transition items and weights of an item memory must be of one shape, got {tuple(items.shape)} and "
            f"{tuple(weights.shape)}."
        )
    weights = weights.half()
    broken = ~weights.isfinite().all(1)
    if broken.any():
        raise ValueError(
            f"transition weights of an item memory must be finite in float16; those of {int(broken.sum())} items are "
            f"not, such as of item {int(broken.nonzero()[0])}."
        )
    return items.to(torch.int32), weights.masked_fill(items < 0, 0)


def _checked_periods(periods: MemoryPeriods, num_items: int) -> MemoryPeriods:
    """Periods in the dtypes that are kept, if they are of so many items and there is a finite rate of each pair."""
    items, rates = periods
    number = len(rates) if rates.ndim == 2 and rates.shape[0] == rates.shape[1] else 0
    if not 0 < number <= 128 or not rates.isfinite().all():
        raise ValueError(
            f"period_rates of an item memory must be finite numbers of shape (P, P), P from 1 to 128, got shape "
            f"{tuple(rates.shape)}."
        )
    if items.shape != (num_items,) or items.is_floating_point() or ((items < -1) | (items >= number)).any():
        raise ValueError(
            f"periods of an item memory must be {num_items} whole numbers from -1 to {number - 1}, got {items.dtype} "
            f"of shape {tuple(items.shape)}."
        )
    return MemoryPeriods(items.to(torch.int8), rates.float())


def _checked_brands(brands: Tensor, num_items: int) -> Tensor:
    if brands.shape != (num_items,) or brands.is_floating_point() or (brands < -1).any():
        raise ValueError(
            f"brands of an item memory must be {num_items} whole numbers of at least -1, got {brands.dtype} of shape "
            f"{tuple(brands.shape)}."
        )
    return brands.to(torch.int64)


__all__ = ["ItemMemory", "MemoryPeriods"]
