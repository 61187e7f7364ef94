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
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

PERIOD_TENSORS = ("periods", "period_rates")  # of [`MemoryPeriods`], in files
CONTENT_TENSORS = ("similar_items", "content", "content_mean", "content_projection")  # of [`MemoryContent`], in files
NUM_FEATURES = 3  # of the evidence that a gate reads, see `generation_memory.UserMemory.evidence`
CONTENT_WIDTH = 128  # principal directions of the content that are kept: 256 bytes an item, whatever the encoder
NO_CONTENT = 1e-4  # share of the usual length below which an embedding is the catalogue's mean: it says nothing
RECENT_ITEMS = 3  # latest interactions of a user that count for the trend, weight 1/place from the end
RECENT_UNIT = 6  # in whole numbers of 1/6, lcm(1, 2, 3): what is added or taken away later is so exactly
TREND_PRIOR = 5.0  # interactions that every item has beside its own, so that few of them make no trend
PERIODS = 16  # spans of time of as many interactions each
SAME_CONTENT = 0.1  # distance of unit vectors that half precision, or an encoder on another device, do not make
BLOCK_ENTRIES = 2**25  # of cosines that are there at once: 128 MiB


@dataclass(frozen=True)
class MemorySettings:
    """
    How an [`ItemMemory`] is read.

    Args:
        content_weight (`float`, *optional*, defaults to 0.0): w, the weight of the content's cosine.
        evidence (`float`, *optional*, defaults to 0.0): κ: the fewer training interactions a user's last item has, the
            more content and brand weigh; 0: the same for all.
        trend_weight (`float`, *optional*, defaults to 0.0): δ, the weight of the items' trend.
        temperature (`float`, *optional*, defaults to 0.03): τ of `p_mem`, which is
            exp(m/τ) - 1 where m is above 0, normalised over the items, see `generation_memory.log_weights`.
        mixing_weight (`float`, *optional*, defaults to 0.7): g of `(1 - g)·P_net + g·p_mem`; 0 is the network alone, 1
            the memory alone.
        gate (`tuple[float, ...]`, *optional*): bias and weights of the features of a logistic gate, which then gives
            each user its g in place of `mixing_weight`.
        max_history (`int`, *optional*, defaults to 20): latest items of a history that are looked up.
        period_weight (`float`, *optional*, defaults to 0.0): ε, the weight of the items' period.
        discount (`float`, *optional*, defaults to 0.0): α, by which popular items get less of the transitions.
        brand_weight (`float`, *optional*, defaults to 0.0): ζ, the weight of a brand that the history has.
        repeat_weight (`float`, *optional*, defaults to 0.0): β, the weight of an item that the history has; below 0
            it is taken again later than others, far below 0 not at all.

    Raises:
        ValueError: if a value is out of range or no finite number.
    """

    content_weight: float = 0.0
    evidence: float = 0.0
    trend_weight: float = 0.0
    temperature: float = 0.03
    mixing_weight: float = 0.7
    gate: tuple[float, ...] | None = None
    max_history: int = 20
    period_weight: float = 0.0
    discount: float = 0.0
    brand_weight: float = 0.0
    repeat_weight: float = 0.0

    def __post_init__(self):
        weights = ("content_weight", "evidence", "trend_weight", "period_weight", "discount", "brand_weight")
        for name in (*weights, "temperature", "mixing_weight", "repeat_weight"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{name} of an item memory must be a finite number, got {value!r}.")
        negative = {name: getattr(self, name) for name in weights if getattr(self, name) < 0}
        if negative:
            raise ValueError(f"{', '.join(weights)} must be at least 0, got {negative}.")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}.")
        if not 0 <= self.mixing_weight <= 1:
            raise ValueError(f"mixing_weight must be from 0 to 1, got {self.mixing_weight}.")
        if isinstance(self.max_history, bool) or not isinstance(self.max_history, int) or self.max_history < 1:
            raise ValueError(f"max_history must be a whole number of at least 1, got {self.max_history!r}.")
        if self.gate is not None:
            object.__setattr__(self, "gate", tuple(self.gate))
            odd = [each for each in self.gate if not isinstance(each, int | float) or not math.isfinite(each)]
            if len(self.gate) != 1 + NUM_FEATURES or odd:
                raise ValueError(f"gate must be {1 + NUM_FEATURES} finite numbers, got {list(self.gate)}.")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "MemorySettings":
        """Settings of names and values; names that a later release may have added are left out."""
        return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})


class MemoryContent(NamedTuple):
    """
    What an [`ItemMemory`] keeps of the items' content.

    Args:
        similar_items (`torch.IntTensor` of shape `(num_items, k)`): items alike in content, each item among its own;
            -1 for none.
        vectors (`torch.Tensor` of shape `(num_items, r)`): content vectors, whose products are the cosines of the
            content embeddings without their mean; kept in float16.
        mean (`torch.Tensor` of shape `(width,)`): that mean, for items that are added.
        projection (`torch.Tensor` of shape `(width, r)`): from embeddings without their mean, of unit length, to
            content vectors, see [`principal_directions`].
    """

    similar_items: Tensor
    vectors: Tensor
    mean: Tensor
    projection: Tensor


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
        self.content = None if content is None else _checked_content(content, self.num_items)
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
            _check_encoder(self.content, unit[: self.num_items])
        kept, old = self.content.similar_items.shape[1], self.num_items
        ours, _ = nearest_items(unit[old:], unit, kept)
        items = self.content.similar_items.clone()
        step = BLOCK_ENTRIES // max(num_new, kept * unit.shape[1], 1) + 1
        for start in range(0, old if num_new else 0, step):
            block = slice(start, min(start + step, old))
            near, found = nearest_items(unit[block], unit[old:], min(kept, num_new))
            before = torch.einsum("bke,be->bk", unit[items[block].clamp(min=0).long()], unit[block])
            both = torch.cat((before.masked_fill_(items[block] < 0, -torch.inf), found), dim=1)
            every = torch.cat((items[block], near + old), dim=1)
            items[block] = every.gather(1, both.topk(kept, dim=1).indices)
        padded = torch.nn.functional.pad(ours, (0, kept - ours.shape[1]), value=-1)
        added = (unit[old:] @ self.content.projection).half()
        extended.content = self.content._replace(
            similar_items=torch.cat((items, padded)), vectors=torch.cat((self.content.vectors, added))
        )
        return extended

    def __repr__(self) -> str:
        content = "" if self.content is None else f", similar_items={self.content.similar_items.shape[1]}"
        return f"ItemMemory(num_items={self.num_items}, transitions={self.transition_items.shape[1]}{content})"


def _check_items(name: str, items: Tensor) -> None:
    """Whether the items of sparse rows are whole numbers within the catalogue."""
    if items.ndim != 2 or not len(items) or items.is_floating_point():
        raise ValueError(
            f"{name} items of an item memory must be int of shape (num_items, kept), got {items.dtype} "
            f"{tuple(items.shape)}."
        )
    outside = ((items < -1) | (items >= len(items))).any(1)
    if outside.any():
        row = int(outside.nonzero()[0])
        found = items[row][(items[row] < -1) | (items[row] >= len(items))]
        raise ValueError(
            f"{name} items of an item memory must be rows of its {len(items)} items or -1, found "
            f"{found[:10].tolist()} of item {row}."
        )


def _checked_rows(items: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Transitions in int32 and float16, if they are of one shape, within the catalogue and finite."""
    _check_items("transition", items)
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


def _checked_content(content: MemoryContent, num_items: int) -> MemoryContent:
    """Content in the dtypes that are kept, if it is of so many items, of shapes that fit, and finite."""
    _check_items("similar", content.similar_items)
    if len(content.similar_items) != num_items or len(content.vectors) != num_items:
        raise ValueError(
            f"{num_items} items have transitions, {len(content.similar_items)} similar items, "
            f"{len(content.vectors)} content vectors."
        )
    if content.mean.ndim != 1 or content.projection.ndim != 2 or content.vectors.ndim != 2:
        raise ValueError("content_mean of an item memory is a vector, content and content_projection are matrices.")
    expected = len(content.mean), content.vectors.shape[1]
    if content.projection.shape != expected:
        raise ValueError(
            f"content_projection of an item memory must have shape {expected}, got {tuple(content.projection.shape)}."
        )
    kept = MemoryContent(
        content.similar_items.to(torch.int32),
        content.vectors.half(),
        content.mean.float(),
        content.projection.float(),
    )
    for name, tensor in zip(CONTENT_TENSORS, kept, strict=True):
        if not tensor.isfinite().all():
            raise ValueError(f"{name} of an item memory must be finite numbers.")
    return kept


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


def _check_encoder(content: MemoryContent, unit: Tensor) -> None:
    """Raises ValueError if most of the items' content embeddings, of [`unit_content`], are not those that are kept."""
    known = content.vectors.any(dim=1)
    differ = (unit[known] @ content.projection - content.vectors[known].float()).norm(dim=1) > SAME_CONTENT
    if differ.sum() > len(differ) / 2:
        raise ValueError(
            f"The content embeddings of {int(differ.sum())} of {len(differ)} items are not those that the memory "
            "was built with: they are of another encoder, or of items in another order."
        )


def unit_content(content: Tensor, num_items: int, mean: Tensor) -> Tensor:
    """
    Content embeddings without their mean, of unit length, float32 `(num_items, width)`, of float64 ones float64; zeros
    for an item whose embedding is the mean, of which nothing is known.

    Raises:
        ValueError: if there are not so many, they are of another width than the mean, or not finite.
    """
    if content.ndim != 2 or len(content) != num_items:
        raise ValueError(f"Expected content embeddings of {num_items} items, got shape {tuple(content.shape)}.")
    if content.shape[1] != len(mean):
        raise ValueError(
            f"The memory's content embeddings have {len(mean)} numbers, those given {content.shape[1]}: they are of "
            "another encoder."
        )
    broken = ~content.isfinite().all(1)
    if broken.any():
        raise ValueError(
            f"{int(broken.sum())} items have content embeddings that are not finite, such as row "
            f"{int(broken.nonzero()[0])}."
        )
    content = content if content.dtype == torch.float64 else content.float()
    usual, centred = content.norm(dim=1).mean(), content - mean
    lengths = centred.norm(dim=1, keepdim=True)
    return (centred / (lengths + 1e-9)).masked_fill_(lengths <= NO_CONTENT * usual, 0)


def principal_directions(unit: Tensor, width: int = CONTENT_WIDTH) -> Tensor:
    """
    The `width` directions in which content vectors differ most: float32 `(e, min(width, e))`, the first one first. As
    many as there are numbers only turn the vectors: their products stay.

    Args:
        unit (`torch.Tensor` of shape `(num_items, e)`): vectors.
        width (`int`, *optional*, defaults to 128): at most so many.
    """
    spread = torch.zeros(unit.shape[1], unit.shape[1], dtype=torch.float64, device=unit.device)
    step = max(1, BLOCK_ENTRIES // max(1, unit.shape[1]))
    for start in range(0, len(unit), step):
        block = unit[start : start + step].double()
        spread += block.T @ block
    _, directions = torch.linalg.eigh(spread)  # the largest last
    return directions.flip(1)[:, :width].float().contiguous()


def nearest_items(queries: Tensor, unit: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """
    The `kept` largest cosines of each query, itself among them if it is there; exact, by blocks.

    Args:
        queries (`torch.Tensor` of shape `(num_queries, width)`), unit (`torch.Tensor` of shape `(num_items, width)`):
            vectors of unit length.
        kept (`int`): at most so many.

    Returns:
        `tuple[torch.IntTensor, torch.FloatTensor]`: items and cosines, the largest first.
    """
    kept = min(kept, len(unit))
    items = torch.empty(len(queries), kept, dtype=torch.int32, device=unit.device)
    values = torch.empty(len(queries), kept, device=unit.device)
    step = max(1, BLOCK_ENTRIES // len(unit))
    for start in range(0, len(queries), step):
        best = (queries[start : start + step] @ unit.T).topk(kept, dim=1)
        items[start : start + step], values[start : start + step] = best.indices.to(torch.int32), best.values
    return items, values


__all__ = [
    "ItemMemory",
    "MemoryContent",
    "MemoryPeriods",
    "MemorySettings",
    "nearest_items",
    "principal_directions",
    "unit_content",
]
