"""Domains: what is read, what k-core leaves of catalogue and sequences together, and errors that name the folder."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tokenization_items.catalogue import CatalogueError
from tokenization_items.text_template import TextTemplate
from trainers.data import domains as module
from trainers.data.domains import Domain, check_trainable, load_catalogues, load_domains

ITEMS = "gfadbec"  # rare items come first, so that the rows of the rest change without them
SEQUENCES = {
    "u0": ["a", "b", "c", "a", "b"],
    "u1": ["b", "c", "a"],
    "u2": ["c", "d", "a", "b", "e"],
    "u3": ["d", "e"],
    "u4": ["f", "a", "b", "c"],
}


def write(folder, item_ids=ITEMS, sequences=SEQUENCES, images=()):
    folder.mkdir(parents=True)
    rows = [{"item_id": i, "title": f"thing {i}", "image": f"{i}.png" if i in images else None} for i in item_ids]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [{"user_id": user, "items": items} for user, items in sequences.items()]
    (folder / "sequences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def by_name(domain):
    """Sequences as item ids, read through the catalogue's rows."""
    interactions = domain.interactions
    return {
        user: [domain.catalogue.item_ids[row] for row in interactions.sequence(number)]
        for number, user in enumerate(interactions.user_ids)
    }


def brute_force_core(sequences, k):
    sequences = dict(sequences)
    while True:
        counts = Counter(item for items in sequences.values() for item in items)
        kept = {user: [item for item in items if counts[item] >= k] for user, items in sequences.items()}
        kept = {user: items for user, items in kept.items() if len(items) >= k}
        if kept == sequences:
            return kept
        sequences = kept


def test_reads_catalogue_and_sequences(tmp_path):
    domain = Domain.from_folder(write(tmp_path / "toys"))
    assert (domain.name, len(domain.catalogue), domain.interactions.num_users) == ("toys", 7, 5)
    assert by_name(domain) == SEQUENCES
    sizes = "toys: 7 items (0 with image), 5 users, 19 interactions"
    assert str(domain) == f"{sizes}; 1 users with fewer than three interactions are left out: 'u3'"
    interactions = domain.interactions
    assert str(replace(domain, interactions=replace(interactions, split="temporal"))) == sizes  # it leaves out no user
    long = interactions.select_users(np.array([0, 1]))
    assert long.num_short == 0 and str(replace(domain, interactions=long)).endswith(" interactions")


@pytest.mark.parametrize("k", [2, 3])
def test_k_core_selects_items_and_remaps_rows(tmp_path, k):
    domain = Domain.from_folder(write(tmp_path / "toys"), k_core=k)
    expected = brute_force_core(SEQUENCES, k)
    assert by_name(domain) == expected
    kept = {item for items in expected.values() for item in items}
    assert domain.catalogue.item_ids == [item for item in ITEMS if item in kept]
    assert domain.catalogue.titles == [f"thing {item}" for item in domain.catalogue.item_ids]
    interactions = domain.interactions
    assert interactions.item_ids == domain.catalogue.item_ids
    assert (interactions.popularity > 0).all() and interactions.items.dtype == np.int32
    training = interactions.training_part()
    assert training.num_items == len(domain.catalogue)


def test_k_core_that_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="toys: no user and item with 9 interactions"):
        Domain.from_folder(write(tmp_path / "toys"), k_core=9)
    with pytest.raises(ValueError, match="k_core must be at least 0, got -1"):
        Domain.from_folder(tmp_path / "toys", k_core=-1)


def test_broken_image_is_found_before_any_work(tmp_path):
    folder = write(tmp_path / "toys", images="ab")
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    (folder / "b.png").write_bytes(b"no image")
    with pytest.raises(CatalogueError, match="'b'"):
        Domain.from_folder(folder)
    domain = Domain.from_folder(folder, check_images=False)
    assert "2 with image" in str(domain)


def test_several_folders_and_folders_of_domains(tmp_path):
    write(tmp_path / "all" / "music")
    write(tmp_path / "all" / "garden")
    (tmp_path / "all" / "notes").mkdir()
    alone = write(tmp_path / "alone")
    domains = load_domains([str(alone), str(tmp_path / "all")])
    assert [domain.name for domain in domains] == ["alone", "garden", "music"]


def test_a_folder_with_items_is_one_domain(tmp_path):
    write(tmp_path / "toys")
    write(tmp_path / "toys" / "inner")
    assert [domain.name for domain in load_domains([str(tmp_path / "toys")])] == ["toys"]


def test_errors_name_the_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="No data folder .*nowhere"):
        load_domains([str(tmp_path / "nowhere")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty holds no domain.*items\.parquet"):
        load_domains([str(tmp_path / "empty")])
    write(tmp_path / "x" / "toys")
    write(tmp_path / "y" / "toys")
    with pytest.raises(ValueError, match=r"occur twice: \['toys'\]"):
        load_domains([str(tmp_path / "x" / "toys"), str(tmp_path / "y" / "toys")])


def test_builtin_domains_by_name(tmp_path, monkeypatch):
    written = {name: write(tmp_path / name) for name in ("kitchen", "garden", "office")}
    monkeypatch.setattr(module, "write_all", lambda folder: written)
    assert [domain.name for domain in load_domains(["builtin"], builtin=["garden", "office"])] == ["garden", "office"]


def test_templates_of_domains(tmp_path):
    folders = [str(write(tmp_path / name)) for name in ("films", "toys")]
    templates = {"": TextTemplate(), "films": TextTemplate("Describe a movie:")}
    films, toys = load_domains(folders, templates=templates)
    assert films.catalogue.texts[0] == "Describe a movie: thing g"
    assert toys.catalogue.texts[0] == "Describe an item: thing g"
    assert load_domains(folders)[0].catalogue.texts[0] == "thing g"
    with pytest.raises(ValueError, match=r"\['filns'\], which are none of the domains \['films', 'toys'\]"):
        load_domains(folders, templates={"filns": TextTemplate()})


def test_catalogues_are_checked_and_their_interactions_are_not_read(tmp_path):
    for name in ("films", "toys"):
        (write(tmp_path / name) / "sequences.jsonl").write_text("broken")
    templates = {"": TextTemplate(), "films": TextTemplate("Describe a movie:")}
    films, toys = load_catalogues([str(tmp_path)], templates)
    assert (films.name, films.texts[0]) == ("films", "Describe a movie: thing g")
    assert toys.texts[0] == "Describe an item: thing g"
    twice = write(tmp_path / "twice" / "toys", item_ids="aba")
    with pytest.raises(CatalogueError, match="item 'a': duplicate item_id, 2 times"):
        load_catalogues([str(twice)], templates)


def test_fields_of_the_texts(tmp_path):
    folder = write(tmp_path / "shop")
    rows = [{"item_id": i, "title": f"thing {i}", "categories": ["c", i], "description": "d"} for i in ITEMS]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = ["categories", "title"]
    assert Domain.from_folder(folder, text_fields=fields).catalogue.texts[0] == "c, g. thing g"
    assert load_domains([str(folder)], text_fields=fields)[0].catalogue.texts[0] == "c, g. thing g"
    assert load_catalogues([str(folder)], {}, fields)[0].texts[0] == "c, g. thing g"
    assert load_domains([str(folder)])[0].catalogue.texts[0] == "thing g. c, g. d"


def test_a_catalogue_of_one_item_is_nothing_to_choose_from(tmp_path):
    domain = Domain.from_folder(write(tmp_path / "toys"))
    single = replace(domain, catalogue=domain.catalogue.select(np.array([0])))
    with pytest.raises(ValueError, match="toys: the catalogue has one item"):
        check_trainable([domain, single])


def test_what_cannot_be_trained_is_told_before_any_work(tmp_path):
    """Three items each: one is trained on, which is no target."""
    three = {f"u{user}": list("abc") for user in range(5)}
    short = Domain.from_folder(write(tmp_path / "short", sequences=three))
    message = "short: there is nothing to train on: of 5 users none has two items in the training part .leave-one-out"
    with pytest.raises(ValueError, match=message):
        check_trainable([short])
    with pytest.raises(ValueError, match="short, short: .* of 10 users"):
        check_trainable([short, short])
    four = Domain.from_folder(write(tmp_path / "long", sequences={**three, "v": list("abcd")}))
    check_trainable([four])
    check_trainable([short, four])
    none = replace(four, interactions=four.interactions.sample_training_users(0))
    with pytest.raises(ValueError, match="nothing to train on"):
        check_trainable([none])
    parts = np.array([0] + [2] * 18, np.int8)
    split = replace(four, interactions=replace(four.interactions, parts=parts, split="temporal"))
    with pytest.raises(ValueError, match=r"training part \(split: temporal\)"):
        check_trainable([split])
