"""Limits of a service: what a request may ask for, what may wait, how long an answer may take."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

MAX_FIELDS = 64  # of an item that is described
MAX_TEXT = 20_000  # characters of one of its fields
MAX_BEAMS = 200


@dataclass(frozen=True)
class Limits:
    """
    What a service takes; more is refused with a sentence.

    Args:
        max_batch_size (`int`, *optional*, defaults to 32): histories that the model reads at once.
        max_wait_ms (`float`, *optional*, defaults to 2.0): milliseconds that a request waits for others to be read
            with; while the model is busy they gather anyway.
        max_waiting (`int`, *optional*, defaults to 1024): histories that may wait; what comes then is answered 503.
        max_histories (`int`, *optional*, defaults to 256): of one request.
        max_history (`int`, *optional*, defaults to 1000): items of a history.
        top_k_limit (`int`, *optional*, defaults to 100): items that may be asked for.
        max_items (`int`, *optional*, defaults to 10000): items of one change, and of a rule.
        max_body_mb (`float`, *optional*, defaults to 8.0): megabytes of a request.
        timeout_s (`float`, *optional*, defaults to 30.0): seconds until an answer, and for what is unfinished at the
            end.

    Raises:
        ValueError: a limit of nothing, or requests that could never wait.
    """

    max_batch_size: int = field(default=32, metadata={"help": "Histories that the model reads at once."})
    max_wait_ms: float = field(
        default=2.0, metadata={"help": "Milliseconds that a request waits for others to be read with."}
    )
    max_waiting: int = field(
        default=1024, metadata={"help": "Histories that may wait; what comes then is answered 503."}
    )
    max_histories: int = field(default=256, metadata={"help": "Histories of one request."})
    max_history: int = field(default=1000, metadata={"help": "Items of a history."})
    top_k_limit: int = field(default=100, metadata={"help": "Items that may be asked for."})
    max_items: int = field(default=10_000, metadata={"help": "Items of one change of the catalogue, and of a rule."})
    max_body_mb: float = field(default=8.0, metadata={"help": "Megabytes of a request."})
    timeout_s: float = field(
        default=30.0, metadata={"help": "Seconds until an answer, and for what is unfinished at the end."}
    )

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not (value > 0 or (each.name == "max_wait_ms" and value == 0)):
                raise ValueError(f"{each.name} must be above 0, got {value}.")
        if self.max_histories > self.max_waiting:
            raise ValueError(
                f"max_histories is {self.max_histories}, but only {self.max_waiting} may wait (max_waiting): such a "
                "request would never be taken."
            )

    @property
    def max_bytes(self) -> int:
        return int(self.max_body_mb * 1_000_000)
