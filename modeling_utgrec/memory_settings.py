"""How an item memory is read."""

import math
from dataclasses import dataclass, fields
from typing import Any

NUM_FEATURES = 3  # of the evidence that a gate reads, see `generation_memory.UserMemory.evidence`


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


__all__ = ["NUM_FEATURES", "MemorySettings"]
