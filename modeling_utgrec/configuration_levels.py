"""Levels of semantic IDs in a recommender's configuration: how many codes each has, and which tokens are theirs."""

from .configuration_utgrec import NUM_SPECIAL_TOKENS


class CodeLevels:
    """
    For configurations with the fields `num_levels`, `codebook_size`, `level_sizes` and `vocab_size`, of which the last
    two may be derived. The vocabulary holds the special tokens followed by the codes: pad 0, end-of-sequence 1, code
    `c` of level `l` is token `level_offsets[l] + c`. Every level has its own range of tokens.
    """

    num_levels: int | None
    codebook_size: int
    level_sizes: list[int] | None
    vocab_size: int | None

    def derive_levels(self, num_levels: int) -> None:
        """Sets what was not given; `num_levels` where neither it nor `level_sizes` was."""
        if self.num_levels is None:
            self.num_levels = num_levels if self.level_sizes is None else len(self.level_sizes)
        if self.level_sizes is None:
            self.level_sizes = [self.codebook_size] * self.num_levels
        if self.vocab_size is None:
            self.vocab_size = self.number_of_tokens()

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
        """Raises ValueError unless the description of the identifiers is coherent."""
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
        if self.vocab_size != self.number_of_tokens():
            raise ValueError(
                f"`vocab_size` is {self.vocab_size}, but {NUM_SPECIAL_TOKENS} special tokens and `level_sizes` "
                f"{self.level_sizes} make {self.number_of_tokens()}. Leave `vocab_size` out: it is derived."
            )


__all__ = ["CodeLevels"]
