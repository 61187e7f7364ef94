"""One template for the texts of every domain, so that a text encoder sees items of all of them alike."""

from collections.abc import Sequence
from dataclasses import dataclass

MAX_FIELD_CHARACTERS = 2000


@dataclass(frozen=True)
class TextTemplate:
    """
    The text of an item as RecBase's text encoder reads it: an introduction that says what kind of item it is, then the
    fields, one in a line ("Describe a movie: Toy Story (1995)\\nAnimation, Comedy").

    Args:
        introduction (`str`, *optional*, defaults to `"Describe an item:"`): what stands before the fields; the
            domain's own if its items have a name ("Describe a movie:").
        max_field_characters (`int`, *optional*, defaults to 2000): where each field is cut.

    Raises:
        ValueError: if a field may have no character.
    """

    introduction: str = "Describe an item:"
    max_field_characters: int = MAX_FIELD_CHARACTERS

    def __post_init__(self):
        if self.max_field_characters < 1:
            raise ValueError(f"max_field_characters must be at least 1, got {self.max_field_characters}")

    def render(self, fields: Sequence[str]) -> str:
        """The text of one item; without any field it is the introduction alone."""
        cut = [field[: self.max_field_characters].rstrip() for field in fields if field]
        return f"{self.introduction} {chr(10).join(cut)}".strip()

    def is_bare(self, text: str) -> bool:
        """Whether a text that this template made says nothing of its item."""
        return text == self.introduction.strip()
