"""Refusals of requests: a status, a sentence, and the field and row that it is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class Refusal(Exception):
    """
    A request that is not answered.

    Args:
        status (`int`): of HTTP.
        message (`str`): what is wrong, and what would be right.
        field (`str`, *optional*): what it is about, such as `"histories[2][0].title"`.
        row (`int`, *optional*): the row of the histories or items.
        headers (`Mapping[str, str]`, *optional*): of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        field: str | None = None,
        row: int | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.field, self.row = status, message, field, row
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """What the client reads."""
        return {"error": {"message": self.message, "field": self.field, "row": self.row}}


def refusal_of(errors: Sequence[Mapping[str, Any]]) -> Refusal:
    """The first of pydantic's errors of a body as a refusal; values that were sent are not repeated."""
    first = errors[0]
    place = [each for each in first["loc"] if each not in ("body", "query", "path")]
    if first["type"] == "json_invalid":
        return Refusal(422, "The body is no JSON: " + str(first.get("ctx", {}).get("error", "it cannot be read")))
    if not place:
        return Refusal(422, "The body is no JSON object, or its header is not Content-Type: application/json.")
    row = next((each for each in place[1:2] if isinstance(each, int)), None)
    field = "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in place).lstrip(".")
    message = str(first.get("ctx", {}).get("error") or first["msg"])
    more = f" ({len(errors) - 1} more errors)" if len(errors) > 1 else ""
    return Refusal(422, f"{field}: {message}{more}", field, row)
