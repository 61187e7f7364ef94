"""Levels of semantic IDs in a recommender's configuration: how many codes each has, and which tokens are theirs."""

NUM_SPECIAL_TOKENS = 2  # padding and end-of-sequence, before the codes
MAX_HISTORY = 2**20  # items; nobody has so many, and more are no number of items


class CodeLevels:
    """
    For configurations with `num_levels`, `level_sizes`, `vocab_size`, `max_history` and `normalize_over`, of
    which the first three may be derived. The vocabulary holds the special tokens followed by the codes: pad 0,
    end-of-sequence 1, code `c` of level `l` is token `level_offsets[l] + c`. Every level has its own range of tokens,
    unless a configuration says otherwise.
    """

    num_levels: int | None
    codebook_size: int
    level_sizes: list[int] | None
    vocab_size: int | None
    max_history: int
    normalize_over: str | None

    def derive_levels(self, num_levels: int) -> None:
        """Sets what was not given; `num_levels` where neither it nor `level_sizes` was."""
        if self.num_levels is None:
            self.num_levels = num_levels if self.level_sizes is None else len(self.level_sizes)
        if self.level_sizes is None:
            self.level_sizes = self.default_level_sizes()
        if self.vocab_size is None:
            self.vocab_size = self.number_of_tokens()

    def default_level_sizes(self) -> list[int]:
        """`level_sizes` where they are not given: `codebook_size` each, unless a configuration has another field."""
        assert self.num_levels is not None
        return [self.codebook_size] * self.num_levels

    def number_of_tokens(self) -> int:
        """What `vocab_size` must be."""
        assert self.level_sizes is not None
        return NUM_SPECIAL_TOKENS + sum(self.level_sizes)

    @property
    def level_offsets(self) -> list[int]:
        """First token id of each level."""
        assert self.num_levels is not None and self.level_sizes is not None  # __post_init__ has set them
        return [NUM_SPECIAL_TOKENS + sum(self.level_sizes[:level]) for level in range(self.num_levels)]

    def check_levels(self) -> None:
        """Raises ValueError unless levels and their sizes are coherent."""
        assert self.num_levels is not None and self.level_sizes is not None
        if self.num_levels < 1:
            raise ValueError(f"`num_levels` must be at least 1, got {self.num_levels}.")
        if len(self.level_sizes) != self.num_levels:
            raise ValueError(
                f"`level_sizes` {self.level_sizes} has {len(self.level_sizes)} levels, `num_levels` is "
                f"{self.num_levels}."
            )
        if min(self.level_sizes) < 1:
            raise ValueError(f"every level needs at least one code, got `level_sizes` {self.level_sizes}.")

    def check_vocabulary(self) -> None:
        """Raises ValueError unless the vocabulary is that of the levels, and how it is read is known."""
        if self.vocab_size != self.number_of_tokens():
            raise ValueError(
                f"`vocab_size` is {self.vocab_size}, but {NUM_SPECIAL_TOKENS} special tokens and `level_sizes` "
                f"{self.level_sizes} make {self.number_of_tokens()}. Leave `vocab_size` out: it is derived."
            )
        self.check_reading()

    def check_reading(self) -> None:
        """Raises ValueError unless it is known how much of a history is read, and what probabilities are of."""
        if self.normalize_over not in ("vocabulary", "items"):
            raise ValueError(f"`normalize_over` must be 'vocabulary' or 'items', got {self.normalize_over!r}.")
        if not 1 <= self.max_history <= MAX_HISTORY:
            raise ValueError(f"`max_history` must be between 1 and {MAX_HISTORY}, got {self.max_history}.")


__all__ = ["MAX_HISTORY", "NUM_SPECIAL_TOKENS", "CodeLevels"]
