"""Tokens of codes and sid2pid.json: the layouts that are read, and what is refused."""

import json

import pytest

from trainers.hub.sid_tokens import code_token, find_code_tokens, read_sid2pid


def vocabulary(sizes: list[int], first: int = 7, pattern: str = "<s_{}_{}>") -> dict[str, int]:
    tokens = [pattern.format("abc"[level], code) for level, size in enumerate(sizes) for code in range(size)]
    return {"text": 0, **{token: first + number for number, token in enumerate(tokens)}, "<|sid_begin|>": 1}


@pytest.mark.parametrize("pattern", ["<s_{}_{}>", "<{}_{}>"])
def test_levels_are_found_by_their_tokens(pattern):
    assert find_code_tokens(vocabulary([3, 4, 2], pattern=pattern)) == ([3, 4, 2], [7, 10, 14])
    assert code_token(1, 17) == "<s_b_17>"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tokens: tokens.pop("<s_b_1>"), "lacks 1 tokens of level b: <s_b_1>. Codes are 0 to 3"),
        (lambda tokens: tokens.update({"<s_b_2>": 99}), "do not follow each other from <s_b_0>, 10"),
        (lambda tokens: [tokens.pop(f"<s_b_{code}>") for code in range(4)], "of the levels \\['a', 'c'\\]"),
        (lambda tokens: tokens.clear(), "has no tokens of codes"),
    ],
)
def test_a_tokenizer_that_lacks_tokens_is_named(change, message):
    tokens = vocabulary([3, 4, 2])
    change(tokens)
    with pytest.raises(ValueError, match=f"The tokenizer of theirs.*{message}|{message}"):
        find_code_tokens(tokens, "The tokenizer of theirs")


def packed(*codes: int) -> str:
    return str((codes[0] * 8192 + codes[1]) * 8192 + codes[2])


@pytest.mark.parametrize(
    "entries",
    [
        {"2,3,1": [{"pid": "x", "count": 1}], "0,0,0": [{"pid": "y", "count": 1}]},  # ours
        {
            packed(2, 3, 1): [{"pid": "x", "count": 9, "count_after_downsample": 3}],
            "0": [{"iid": "y"}],
        },  # OpenOneRec's
        {"2,3,1,1": [{"pid": "x"}], "0,0,0,1": "y"},  # with the level of FlashRec's end token
    ],
)
def test_the_layouts_of_others_are_read(tmp_path, entries):
    path = tmp_path / "sid2pid.json"
    path.write_text(json.dumps(entries))
    items = read_sid2pid(path, [3, 4, 2])
    assert (items.item_ids, items.codes.tolist(), items.left_out) == (["x", "y"], [[2, 3, 1], [0, 0, 0]], 0)


def test_a_catalogue_without_items_has_semantic_ids_for_ids(tmp_path):
    path = tmp_path / "sid2pid.json"
    path.write_text('{"2,3,1":1,"0,0,0":1}')
    assert read_sid2pid(path, [3, 4, 2]).item_ids == ["2,3,1", "0,0,0"]


def test_the_most_frequent_item_of_a_semantic_id_may_be_kept(tmp_path):
    path = tmp_path / "sid2pid.json"
    path.write_text(json.dumps({"0,0,0": [{"pid": 5, "count": 2}, {"pid": 6, "count": 7}], "0,0,1": [{"pid": 8}]}))
    with pytest.raises(ValueError, match=r"1 semantic IDs belong to several items: 0,0,0: 6, 5.*--most_frequent"):
        read_sid2pid(path, [3, 4, 2])
    items = read_sid2pid(path, [3, 4, 2], most_frequent=True)
    assert items.item_ids == ["6", "8"] and items.left_out == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"0,4,0": "x", "0,0,0": "y"}', r"1 items have codes outside of the vocabulary.*\[3, 4, 2\].*x: \[0, 4, 0\]"),
        ('{"0,0,0": "x", "0,0,0": "y"}', "'0,0,0' is there twice"),
        ('{"0,0,1": "x", "1": "y"}', r"items have the semantic ID of another one: y and x: \[0, 0, 1\]"),
        ('{"0,0,0": "x", "0,0,1": "x"}', "1 items have several semantic IDs: x"),
        ('{"0,0": "x"}', "the key '0,0' is no semantic ID of the tokenizer's 3 levels"),
        ('{"a,b,c": "x"}', "the key 'a,b,c'"),
        ('{"0,0,0": [{"name": "x"}]}', "the entry '0,0,0' names no items"),
        ('{"0,0,0": []}', "names no items"),
        ('{"0,0,0": [{"pid": ["x"]}]}', "names no items"),
        ('{"0,0,0": [{"pid": 1.5}]}', "names no items"),
        ('{"0,0,0": [{"pid": "x", "count": "7"}]}', "names no items"),
        ('{"0,0,0": [{"pid": "x", "count": null}]}', "names no items"),
        ('{"0,0,0": ""}', "names no items"),
        ('{"0,0,0": true}', "names no items"),
        ('{"0_1": "x"}', "the key '0_1'"),
        ('{"99999999999999999999,0,0": "x"}', "the key '99999999999999999999,0,0'"),
        ("[]", "expected an object"),
        ('{"0,0,0"', "cannot be read"),
    ],
)
def test_what_names_no_items_is_an_error(tmp_path, text, message):
    path = tmp_path / "sid2pid.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"sid2pid.json.*{message}"):
        read_sid2pid(path, [3, 4, 2])
