"""What is checked of a request before any work: ids, described items, limits; errors name field and row."""

import json

import pytest
from pydantic import ValidationError

from trainers.serving.errors import Refusal, refusal_of
from trainers.serving.limits import MAX_FIELDS, MAX_TEXT, Limits
from trainers.serving.requests import ItemsRequest, RecommendRequest


def refused(body: str, kind=RecommendRequest) -> Refusal:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(json.loads(body))
    return refusal_of([each | {"loc": ("body", *each["loc"])} for each in caught.value.errors()])


def test_items_are_ids_or_described():
    request = RecommendRequest.model_validate_json(
        '{"histories": [["a", 7, 7.0], [{"item_id": 3, "title": "pen", "tags": ["x", 1, null], "sizes": [2, 3]}], []]}'
    )
    described = {"item_id": 3, "title": "pen", "tags": ["x", "1", None], "sizes": [2, 3]}
    assert request.histories == [["a", "7", "7"], [described], []]
    assert (request.top_k, request.exclude_seen, request.allow, request.on_error) == (10, None, None, "skip")


@pytest.mark.parametrize(
    ("histories", "field", "row", "message"),
    [
        ("[[1], [2, true]]", "histories[1][1]", 1, "'True' of type bool is no id"),
        ("[[1.5]]", "histories[0][0]", 0, "'1.5' of type float is no id"),
        ("[[null]]", "histories[0][0]", 0, "got none"),
        ('[[""]]', "histories[0][0]", 0, "got none"),
        ("[[[1]]]", "histories[0][0]", 0, "of type list is no id"),
        ('["a"]', "histories[0]", 0, "valid list"),
        ('"a"', "histories", None, "valid list"),
        ("[]", "histories", None, "at least 1 item"),
        ('[[{"image": "/etc/passwd"}]]', "histories[0][0]", 0, "image: pictures are not taken here"),
        ('[[{"title": {"a": 1}}]]', "histories[0][0]", 0, "title: a field is a text, a number"),
        (f'[[{{"title": "{"x" * MAX_TEXT}"}}]]', "histories[0][0]", 0, f"more than {MAX_TEXT} characters"),
        (
            json.dumps([[{f"f{n}": 1 for n in range(MAX_FIELDS + 1)}]]),
            "histories[0][0]",
            0,
            f"at most {MAX_FIELDS} are taken",
        ),
    ],
)
def test_a_wrong_history_is_named(histories, field, row, message):
    refusal = refused(f'{{"histories": {histories}}}')
    assert (refusal.status, refusal.field, refusal.row) == (422, field, row)
    assert refusal.message.startswith(f"{field}: ") and message in refusal.message


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ('"top_k": 0', "top_k"),
        ('"top_k": "5"', "top_k"),
        ('"top_k": true', "top_k"),
        ('"num_beams": 100000', "num_beams"),
        ('"deny": "a"', "deny"),
        ('"allow": [[1]]', "allow[0]"),
        ('"on_error": "ignore"', "on_error"),
        ('"sources": "yes"', "sources"),
        ('"k": 5', "k"),
    ],
)
def test_a_wrong_field_is_named(more, field):
    refusal = refused(f'{{"histories": [["a"]], {more}}}')
    assert refusal.field == field and refusal.body()["error"]["field"] == field


def test_what_was_sent_is_not_repeated_and_further_errors_are_counted():
    refusal = refused('{"histories": [["a"]], "top_k": "secret", "k": 1}')
    assert "secret" not in refusal.message and "(1 more errors)" in refusal.message
    assert "no JSON" in refusal_of([{"type": "json_invalid", "loc": ("body", 1), "msg": "", "ctx": {}}]).message


@pytest.mark.parametrize(
    ("change", "status", "field", "row"),
    [
        ({"histories": [["a"]] * 4}, 413, "histories", None),
        ({"histories": [["a"], ["a"] * 6]}, 413, "histories[1]", 1),
        ({"top_k": 8}, 422, "top_k", None),
        ({"deny": ["a"] * 3}, 413, "deny", None),
        ({"allow": ["a"] * 3}, 413, "allow", None),
    ],
)
def test_limits_of_a_request(change, status, field, row):
    limits = Limits(max_histories=3, max_history=5, top_k_limit=7, max_items=2)
    fine = {"histories": [["a"] * 5] * 3, "top_k": 7, "deny": ["a", "b"]}
    RecommendRequest(**fine).check(limits)
    with pytest.raises(Refusal) as caught:
        RecommendRequest(**{**fine, **change}).check(limits)
    assert (caught.value.status, caught.value.field, caught.value.row) == (status, field, row)
    assert "at most" in caught.value.message


def test_limits_of_a_change():
    limits = Limits(max_items=2)
    ItemsRequest(add=[{"item_id": "a"}] * 2, remove=[1, "b"]).check(limits)
    for request, status in ((ItemsRequest(), 422), (ItemsRequest(remove=["a"] * 3), 413)):
        with pytest.raises(Refusal) as caught:
            request.check(limits)
        assert caught.value.status == status
    assert refused('{"add": [{"item_id": "a"}, 5]}', ItemsRequest).field == "add[1]"
    assert refused('{"add": [{"item_id": "a", "image": "x"}]}', ItemsRequest).row == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_batch_size": 0}, "max_batch_size must be above 0"),
        ({"max_wait_ms": -1.0}, "max_wait_ms must be above 0"),
        ({"timeout_s": float("nan")}, "timeout_s must be above 0"),
        ({"max_histories": 10, "max_waiting": 9}, "only 9 may wait"),
    ],
)
def test_limits_that_are_none(changes, message):
    with pytest.raises(ValueError, match=message):
        Limits(**changes)
    assert Limits(max_wait_ms=0).max_bytes == 8_000_000
