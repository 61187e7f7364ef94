"""Updates of an index by the catalogues of later days: what stays, what changes, and what it is said to cost."""

import json

import numpy as np
import pytest
import torch

from modeling_utgrec import RQVAEConfig, RQVAEModel
from tokenization_items.catalogue import Catalogue, CatalogueError
from tokenization_items.catalogue_updates import (
    CatalogueDrift,
    compare_items,
    journal_line,
    read_journal,
    write_journal,
)
from tokenization_items.collisions import CapacityError
from tokenization_items.item_provenance import content_digests
from tokenization_items.processing_content import EmbeddingProcessor
from tokenization_items.text_statistics import FittedTextStatistics
from tokenization_items.tokenization_items import UniversalItemTokenizer

WORDS = ["red", "blue", "green", "black", "steel", "oak", "glass", "paper", "soft", "large"]


def text(seed: int) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, 4))


def records(rows, changed=()) -> list[dict]:
    return [{"item_id": f"i{row}", "title": text(row + 1000 * (row in changed))} for row in rows]


def network_of_texts(codebook_size: int = 6) -> tuple[RQVAEModel, EmbeddingProcessor]:
    """A linear RQ-VAE over TF-IDF, whose codebooks are residuals of some texts, so that items differ and collide."""
    vectors, fitted = FittedTextStatistics.fit([text(row) for row in range(60)])
    torch.manual_seed(0)
    sizes = {"hidden_sizes": [], "codebook_dim": 4, "num_levels": 2, "codebook_size": codebook_size}
    network = RQVAEModel(RQVAEConfig(input_dim=vectors.shape[1], **sizes)).eval()
    with torch.no_grad():
        left = network.encode(torch.from_numpy(vectors))
        for codebook in network.quantizer.each(2):
            codebook.set_vectors(left[:codebook_size].clone())
            left = left - codebook.vectors[codebook.nearest(left, codebook.vectors)]
    return network, EmbeddingProcessor(network.config, fitted)


@pytest.fixture
def tokenizer() -> UniversalItemTokenizer:
    return UniversalItemTokenizer.from_network(*network_of_texts())


def semantic_ids(tokenizer) -> dict[str, list[int]]:
    return {item_id: tokenizer.encode(item_id) for item_id in tokenizer.index.item_ids}


def test_the_first_day_is_adding(tokenizer):
    other = UniversalItemTokenizer.from_network(*network_of_texts())
    report = other.add_items(records(range(20)))
    update = tokenizer.update_items(records(range(20)))
    assert semantic_ids(tokenizer) == semantic_ids(other) and update.assignment == report
    assert update.added == [f"i{row}" for row in range(20)] and update.missing == 0 and not update.changed
    assert update.drift.moved_by_collisions == report.items_moved > 0 and update.drift.stale == 0
    assert update.drift.num_known == update.drift.num_items == 20
    again = tokenizer.update_items(records(range(20)))
    assert again.is_empty and again.drift == update.drift and again.index_sha256[0] == again.index_sha256[1]


def test_new_changed_and_missing_items(tokenizer):
    tokenizer.update_items(records(range(20)))
    before = semantic_ids(tokenizer)
    # rows in another order, 5 and 6 changed, 0 to 2 not there, 20 to 22 new
    day = records([22, 21, 20, *range(19, 2, -1)], changed=(5, 6))
    update = tokenizer.update_items(day)
    assert update.added == ["i22", "i21", "i20"] and update.changed == ["i6", "i5"] and update.missing == 3
    assert {item: codes for item, codes in semantic_ids(tokenizer).items() if item in before} == before
    assert tokenizer.index.item_ids[:20] == [f"i{row}" for row in range(20)] and len(tokenizer) == 23
    assert tokenizer.index.titles[5] == text(1005)  # what is shown is what it is now
    assert not update.retokenized and update.drift.stale == 2
    # the next day nothing is new, and what changed yesterday is still of another text
    same = tokenizer.update_items(day)
    assert same.is_empty and same.drift.stale == 2
    again = tokenizer.update_items(day, retokenize=True)
    assert sorted(again.retokenized) == ["i5", "i6"] and again.drift.stale == 0 and not again.changed
    after = semantic_ids(tokenizer)
    assert {item for item in before if before[item] != after[item]} == {*again.reassigned} <= {"i5", "i6"}
    assert tokenizer.index.item_ids[:20] == [f"i{row}" for row in range(20)]  # in their rows
    gone = tokenizer.update_items(day, remove_missing=True)
    assert sorted(gone.removed) == ["i0", "i1", "i2"] and gone.missing == 0 and "i1" not in tokenizer
    assert {item: codes for item, codes in after.items() if item in tokenizer} == semantic_ids(tokenizer)
    assert len(tokenizer.index.provenance.latest) == 20


def test_a_text_that_comes_back_is_as_it_was(tokenizer):
    tokenizer.update_items(records(range(10)))
    tokenizer.update_items(records(range(10), changed=(4,)))
    back = tokenizer.update_items(records(range(10)), retokenize=True)
    assert back.changed == ["i4"] and not back.retokenized and back.drift.stale == 0


def test_drift_is_that_of_tokenizing_all_anew(tokenizer):
    tokenizer.update_items(records(range(30)))
    tokenizer.update_items(records(range(30), changed=range(8)))
    drift = CatalogueDrift.of(tokenizer.index)
    catalogue = Catalogue.from_records(records(range(30), changed=range(8)))
    codes, _ = tokenizer.compute_codes(catalogue)
    differs = [tuple(a) != tuple(b) for a, b in zip(codes.tolist(), tokenizer.index.codes.tolist(), strict=True)]
    assert drift.stale == 8 and drift.num_known == 30
    assert drift.moved_by_changes == sum(differs[:8]) > 0 and drift.moved_by_collisions == sum(differs[8:])
    given = list(map(tuple, codes.tolist()))
    assert drift.sharing_codes == sum(given.count(each) > 1 for each in given)


def test_what_is_known_of_items_begins_with_adding_them(tokenizer):
    """A recommender's training adds its items: what has changed by the first day after it is seen."""
    tokenizer.add_items(records(range(5)))
    tokenizer.add_items(records([5]))
    update = tokenizer.update_items(records(range(7), changed=(2,)), retokenize=True)
    assert update.changed == update.retokenized == ["i2"] and update.unknown == 0 and update.drift.num_known == 7
    other = UniversalItemTokenizer.from_network(*network_of_texts())
    other.update_items(records(range(6)))
    other.update_items(records(range(7), changed=(2,)), retokenize=True)
    for ours, theirs in zip(tokenizer.index.provenance, other.index.provenance, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_items_of_which_nothing_was_known_are_taken_as_they_are(tokenizer):
    tokenizer.add_items(records(range(5)))
    tokenizer.index.set_provenance(None)
    update = tokenizer.update_items(records(range(6), changed=(2,)), retokenize=True)
    assert update.unknown == 5 and not update.changed and not update.retokenized and update.drift.num_known == 1
    assert tokenizer.update_items(records(range(6))).changed == ["i2"]


def test_rows_are_compared_by_id():
    tokenizer = UniversalItemTokenizer.from_network(*network_of_texts())
    tokenizer.update_items(records(range(6)))
    catalogue = Catalogue.from_records(records([9, 3, 1], changed=(1,)))
    changes = compare_items(tokenizer.index, catalogue.item_ids, content_digests(catalogue, False))
    assert changes.added.tolist() == [0] and changes.changed.tolist() == [2] == changes.stale.tolist()
    assert tokenizer.index.find(catalogue.item_ids).tolist() == [-1, 3, 1]
    assert changes.missing == [
        "i0",
        "i2",
        "i4",
        "i5",
    ]


@pytest.mark.parametrize(
    ("day", "message"),
    [
        ([{"item_id": "i1", "title": "a"}, {"item_id": "i1", "title": "b"}], "'i1': duplicate item_id, 2 times"),
        ([{"item_id": "", "title": "a"}], "row 0: missing item_id"),
        ([{"item_id": "i1", "title": "red"}, {"item_id": "new", "title": " "}], r"'new' \(row 1\): empty text and no"),
        ([{"item_id": "i1", "title": ""}], r"'i1' \(row 0\): empty text"),  # it has become so
    ],
)
def test_bad_items_leave_the_index_as_it_was(tokenizer, day, message):
    tokenizer.update_items(records(range(5)))
    index, before = tokenizer.index, tokenizer.index.checksum
    with pytest.raises(CatalogueError, match=message):
        tokenizer.update_items(day, remove_missing=True)
    assert tokenizer.index is index and index.checksum == before


def test_ids_that_are_written_in_another_way(tokenizer):
    tokenizer.update_items([{"item_id": f"00{row}A", "title": text(row)} for row in range(5)])
    before = tokenizer.index.checksum
    day = [{"item_id": f"{row}a", "title": text(row)} for row in range(7)]
    with pytest.raises(CatalogueError, match="none of its 7 items is in the index, but 5 differ .*'0a' here, '000A'"):
        tokenizer.update_items(day)
    assert tokenizer.index.checksum == before
    tokenizer.update_items([*day, {"item_id": "001A", "title": text(1)}])  # some are the same: they are others
    tokenizer.update_items([{"item_id": f"new{row}", "title": text(row)} for row in range(3)])


def test_nothing_is_no_catalogue_of_today(tokenizer):
    tokenizer.update_items(records(range(5)))
    assert tokenizer.update_items([]).missing == 5
    for day in ([], records(range(7, 9))):
        with pytest.raises(ValueError, match=f"none of its {len(day)} items .* nothing would be left of the 5"):
            tokenizer.update_items(day, remove_missing=True)
    assert len(tokenizer) == 5


def test_too_many_items_leave_it_too():
    tokenizer = UniversalItemTokenizer.from_network(*network_of_texts(codebook_size=3))
    tokenizer.update_items(records(range(8)))
    before = tokenizer.index.checksum
    with pytest.raises(CapacityError, match="capacity of 9"):
        tokenizer.update_items(records(range(12)))
    assert tokenizer.index.checksum == before
    tokenizer.update_items(records(range(4, 13)), remove_missing=True)  # there is room when some go
    assert len(tokenizer) == 9


def test_content_of_new_items_is_asked_for(tokenizer):
    tokenizer.update_items(records(range(5)))
    tokenizer.index.set_content(np.ones((5, 3), np.float32))
    with pytest.raises(ValueError, match="give `content` of the new ones"):
        tokenizer.update_items(records(range(6)))
    tokenizer.update_items(records(range(6)), content_of=lambda chosen: np.full((len(chosen), 3), 2.0, np.float32))
    assert tokenizer.index.content[:, 0].tolist() == [1, 1, 1, 1, 1, 2]


def test_removal_is_told(tokenizer):
    tokenizer.update_items(records(range(5)))
    update = tokenizer.remove_items(["i3"])
    assert update.removed == ["i3"] and update.drift.num_items == 4 and not update.is_empty
    assert update.index_sha256[1] == tokenizer.index.checksum != update.index_sha256[0]


def test_the_same_after_saving(tokenizer, tmp_path):
    tokenizer.update_items(records(range(10)))
    tokenizer.save_pretrained(tmp_path)
    loaded = UniversalItemTokenizer.from_pretrained(tmp_path)  # with the encoder of its texts
    day = records(range(14), changed=(2, 3))
    update, other = tokenizer.update_items(day), loaded.update_items(day)
    assert semantic_ids(tokenizer) == semantic_ids(loaded) and update.to_dict() == other.to_dict()


def test_the_journal_has_a_line_for_each_update(tokenizer, tmp_path):
    assert read_journal(tmp_path) == []
    for day in (records(range(5)), records(range(7), changed=(1,))):
        write_journal(tmp_path, [journal_line(tokenizer.update_items(day), columns={"id": "sku"})])
    first, second = read_journal(tmp_path)
    assert first["added"] == 5 and second["added"] == 2 and second["changed"] == 1 and second["columns"]["id"] == "sku"
    assert second["item_ids"] == {"added": ["i5", "i6"], "changed": ["i1"]}
    assert second["item_tokenizer"] == tokenizer.fingerprint and second["index_sha256"][0] == first["index_sha256"][1]
    assert second["assignment"]["num_items"] == 2 and second["drift"]["stale"] == 1 and "T" in second["time"]
    json.dumps([first, second])


def test_the_report_is_readable(tokenizer):
    tokenizer.update_items(records(range(5)))
    said = str(tokenizer.update_items(records(range(2, 7), changed=(3,))))
    for line in (
        "2 items added, 7 in all",
        "1 changed, of which 1 keep",
        "--retokenize",
        "2 items are not in the data",
    ):
        assert line in said
