"""Bodies of requests and of answers, with what is checked of a request before any work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from hub_cards.item_ids import id_text
from trainers.serving.errors import Refusal
from trainers.serving.limits import MAX_BEAMS, MAX_FIELDS, MAX_TEXT, Limits


def checked_id(value: Any) -> str:
    """An item's id as text. Raises ValueError."""
    text = id_text(value)
    if not text:
        raise ValueError("an item's id is a text or a whole number, got none")
    if len(text) > MAX_TEXT:
        raise ValueError(f"an id of {len(text)} characters, at most {MAX_TEXT} are taken")
    return text


def checked_record(value: Any) -> dict[str, Any]:
    """What an item is like: fields of text, numbers, or lists of them. Raises ValueError for anything else; a picture
    would be a file or an address that this machine is told to open."""
    if not isinstance(value, Mapping):
        raise ValueError("an item is an object with its fields, such as title")
    if len(value) > MAX_FIELDS:
        raise ValueError(f"an item with {len(value)} fields, at most {MAX_FIELDS} are taken")
    record = dict(value)
    for name, entry in value.items():
        if name == "image":
            raise ValueError("image: pictures are not taken here; add such items with `utgrec tokenize`")
        for part in entry if isinstance(entry, list) else [entry]:
            if part is not None and not isinstance(part, str | int | float):
                raise ValueError(f"{str(name)[:80]}: a field is a text, a number or a list of them")
        if len(str(name)) + len(str(entry)) > MAX_TEXT:
            raise ValueError(f"{str(name)[:80]}: a field of more than {MAX_TEXT} characters")
        if isinstance(entry, list) and len({type(part) for part in entry}) > 1:  # a column is of one kind
            record[name] = [part if part is None else str(part) for part in entry]
    return record


def checked_item(value: Any) -> str | dict[str, Any]:
    """An item of a history: its id, or what it is like. Raises ValueError."""
    return checked_record(value) if isinstance(value, Mapping) else checked_id(value)


_ID = [{"type": "string"}, {"type": "integer"}]
_RECORD = {"type": "object", "additionalProperties": True}
ItemId = Annotated[Any, AfterValidator(checked_id), WithJsonSchema({"anyOf": _ID})]
Record = Annotated[Any, BeforeValidator(checked_record), WithJsonSchema(_RECORD)]
Item = Annotated[
    Any,
    BeforeValidator(checked_item),
    WithJsonSchema({"anyOf": [*_ID, _RECORD]}),
]


class Body(BaseModel):
    """A body without fields that are unknown, and numbers that are none."""

    model_config = ConfigDict(extra="forbid", strict=True)


class RecommendRequest(Body):
    """Histories, each of one customer, and what is asked of them."""

    histories: list[list[Item]] = Field(
        min_length=1,
        description="Of each customer the items, oldest first: ids, or objects with `title` and other text fields for "
        "items that are not in the catalogue. An empty one, a new customer, gets what is popular.",
    )
    top_k: int = Field(default=10, ge=1, description="Items to return for each.")
    exclude_seen: bool | None = Field(default=None, description="Never an item of the history; null: as saved.")
    allow: list[ItemId] | None = Field(default=None, description="The items to choose from; null: as saved.")
    deny: list[ItemId] = Field(default=[], description="Items never to return, beside those of the saved rules.")
    num_beams: int = Field(default=50, ge=1, le=MAX_BEAMS, description="Width of the beam search.")
    sources: bool = Field(default=False, description="Tell for each item where it comes from; needs a memory.")
    on_error: Literal["skip", "fallback", "raise"] = Field(
        default="skip",
        description="A history with an item that is not known: `skip` answers the others and says why, `fallback` "
        "gives it what is popular too, `raise` answers none (422).",
    )

    def check(self, limits: Limits) -> None:
        """Raises [`Refusal`] beyond the limits."""
        if len(self.histories) > limits.max_histories:
            raise Refusal(
                413,
                f"{len(self.histories)} histories, at most {limits.max_histories} are taken in one request.",
                "histories",
            )
        for row, history in enumerate(self.histories):
            if len(history) > limits.max_history:
                raise Refusal(
                    413,
                    f"A history of {len(history)} items, at most {limits.max_history} are taken: send the latest.",
                    f"histories[{row}]",
                    row,
                )
        if self.top_k > limits.top_k_limit:
            raise Refusal(422, f"top_k is {self.top_k}, at most {limits.top_k_limit} items are given.", "top_k")
        for name in ("allow", "deny"):
            if (number := len(getattr(self, name) or ())) > limits.max_items:
                raise Refusal(413, f"{name} has {number} items, at most {limits.max_items} are taken.", name)


class ItemsRequest(Body):
    """A change of the catalogue, in one step."""

    add: list[Record] = Field(
        default=[],
        description="New items, or changed ones: `item_id`, `title`, and columns named as those of the products that "
        "the recommender was made of.",
    )
    remove: list[ItemId] = Field(default=[], description="Ids of items to forget.")
    retokenize: bool = Field(default=False, description="Whether changed items get new semantic IDs.")

    def check(self, limits: Limits) -> None:
        """Raises [`Refusal`] beyond the limits, or if nothing is to change."""
        if not self.add and not self.remove:
            raise Refusal(422, "Nothing to change: give items to add, or ids to remove.", "add")
        for name in ("add", "remove"):
            if (number := len(getattr(self, name))) > limits.max_items:
                raise Refusal(413, f"{number} items to {name}, at most {limits.max_items} are taken at once.", name)


class ErrorText(BaseModel):
    message: str
    field: str | None = None
    row: int | None = None


class ErrorAnswer(BaseModel):
    """Why a request was not answered."""

    error: ErrorText


class Sources(BaseModel):
    """Shares that sum to 1: of the network, and of the history's items by what followed them and what is alike."""

    network: float
    transitions: dict[str, float]
    content: dict[str, float]
    unknown: float


class Recommendation(BaseModel):
    item_id: str
    title: str = Field(description="Empty if it is not known.")
    score: float = Field(description="Natural logarithm of the probability.")
    sources: Sources | None = Field(default=None, description="If they were asked for.")


class Row(BaseModel):
    """What one history got; the best first."""

    items: list[Recommendation]
    error: ErrorText | None = None


class RecommendAnswer(BaseModel):
    results: list[Row]
    version: int = Field(description="Number of the catalogue that answered: 1, and one more after each change.")


class SimilarItem(BaseModel):
    item_id: str
    title: str
    score: float = Field(description="Cosine of the contents.")


class SimilarAnswer(BaseModel):
    items: list[SimilarItem]
    version: int


class KnownItem(BaseModel):
    item_id: str
    title: str
    semantic_id: list[int] = Field(description="Ids of the recommender's vocabulary.")
    interactions: int | None = Field(description="How often it was bought in the training data; null if unknown.")
    version: int


class ItemsAnswer(BaseModel):
    """The catalogue as it is, and after a change what was changed."""

    items: int
    version: int
    added: list[str] = []
    changed: list[str] = []
    removed: list[str] = []
    saved: bool = Field(default=False, description="Whether it will be there after a restart (`--save_changes`).")


class HealthAnswer(BaseModel):
    status: Literal["ok", "ended"]
    items: int
    version: int
    waiting: int = Field(description="Histories that wait.")
