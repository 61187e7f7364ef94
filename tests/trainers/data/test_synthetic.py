"""The built-in catalogue: what each kind of knowledge is worth in it, its texts and pictures, its files."""

import io
import json
import math
import re
from dataclasses import replace

import datasets
import numpy as np
import pytest
from PIL import Image

from tokenization_items.catalogue import Catalogue
from trainers.data import synthetic
from trainers.data.synthetic import (
    DOWNSTREAM_DOMAIN,
    MATERIALS,
    PRETRAINING_DOMAINS,
    PRICES,
    PURPOSES,
    STYLES,
    AttributeOracle,
    generate_domain,
    write_all,
    write_domain,
)
from trainers.methods.backbones import load_autoencoder
from trainers.training_data.image_latents import encode_images


@pytest.fixture(scope="module")
def downstream():
    return generate_domain(DOWNSTREAM_DOMAIN)


@pytest.fixture(scope="module")
def small():
    return generate_domain("kitchen", num_items=200, num_users=300, seed=3)


def _sequences(domain):
    return [domain.rows[start:end] for start, end in zip(domain.offsets[:-1], domain.offsets[1:], strict=True)]


def _cases(domain):
    sequences = _sequences(domain)
    return [sequence[:-1] for sequence in sequences], np.array([sequence[-1] for sequence in sequences])


def _metrics(ranked, targets):
    hits = ranked[:, :10] == targets[:, None]
    return hits.any(1).mean(), (hits / np.log2(np.arange(2, 12))).sum(1).mean()


def _training_popularity(domain):
    training = np.concatenate([sequence[:-2] for sequence in _sequences(domain)])
    return np.bincount(training, minlength=len(domain.items))


def _popularity_metrics(domain):
    best = np.argsort(-_training_popularity(domain), kind="stable")[:10]
    _, targets = _cases(domain)
    return _metrics(np.tile(best, (len(targets), 1)), targets)


def _transition_metrics(domain):
    counts = np.zeros((len(domain.items), len(domain.items)))
    for sequence in _sequences(domain):
        np.add.at(counts, (sequence[:-3], sequence[1:-2]), 1)
    popularity = _training_popularity(domain)
    histories, targets = _cases(domain)
    scores = counts[[history[-1] for history in histories]] + popularity / (popularity.max() + 1)  # breaks ties
    return _metrics(np.argsort(-scores, axis=1, kind="stable"), targets)


def _text(item):
    return " ".join([item["title"], *item["features"], *item["categories"]]).lower()


def _pixels(item):
    return None if item["image"] is None else np.asarray(item["image"])


def _same(first, second):
    if first.sequences != second.sequences:
        return False
    for one, other in zip(first.items, second.items, strict=True):
        if _text(one) != _text(other) or not np.array_equal(_pixels(one), _pixels(other)):
            return False
    return True


def test_oracle_beats_transitions_beats_popularity(downstream):
    histories, targets = _cases(downstream)
    oracle = _metrics(downstream.oracle.rank(histories, 10), targets)
    transitions, popularity = _transition_metrics(downstream), _popularity_metrics(downstream)
    assert 0.35 < oracle[0] < 0.55
    assert 0.02 < popularity[0] < 0.06
    for metric in range(2):
        assert oracle[metric] > 1.9 * transitions[metric]
        assert transitions[metric] > 2.5 * popularity[metric]


def test_numbers_of_the_docstring(downstream):
    histories, targets = _cases(downstream)
    measured = {
        "oracle": _metrics(downstream.oracle.rank(histories, 10), targets),
        "popularity": _popularity_metrics(downstream),
    }
    for name, values in measured.items():
        row = re.search(rf"^\| {name} +\| +([\d.]+) \| +([\d.]+) \|$", synthetic.__doc__, re.MULTILINE)
        assert [float(value) for value in row.groups()] == pytest.approx(values, abs=0.002)


def test_style_text_and_order_each_matter(downstream):
    histories, targets = _cases(downstream)
    attributes = downstream.attributes
    none = np.zeros_like(attributes.style)

    def recall(histories, **blind):
        oracle = AttributeOracle(replace(attributes, **blind))
        return _metrics(oracle.rank(histories, 10), targets)[0]

    full = recall(histories)
    rng = np.random.default_rng(0)
    assert recall(histories, style=none) < 0.6 * full
    assert recall(histories, purpose=none, material=none, price=none) < 0.6 * full
    assert recall(histories, material=none, price=none) < 0.97 * full
    assert recall([rng.permutation(history) for history in histories]) < 0.5 * full


def test_oracle_is_the_process_that_drew_the_sequences(downstream):
    """The oracle's own belief in its ten items is the share of users for whom one of them came."""
    histories, targets = _cases(downstream)
    probabilities = downstream.oracle.probabilities(histories)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    expected = np.sort(probabilities, axis=1)[:, -10:].sum(1)
    recall, _ = _metrics(downstream.oracle.rank(histories, 10), targets)
    assert abs(recall - expected.mean()) < 4 * math.sqrt((expected * (1 - expected)).mean() / len(expected))


def test_oracle_against_a_plain_computation(small):
    attributes = small.attributes
    histories = [np.array([], dtype=np.int64), np.array([17]), *_sequences(small)[:20]]
    ranked = small.oracle.rank(histories, 5)
    probabilities = small.oracle.probabilities(histories)
    for history, row, values in zip(histories, ranked, probabilities, strict=True):
        weights = []
        cubes = [sum(int(attributes.style[i]) == style for i in history) ** 3 for style in range(len(STYLES))]
        for item in range(len(small.items)):
            weight = float(attributes.popularity[item])
            if len(history):
                last = history[-1]
                weight *= synthetic.PURPOSE_TRANSITIONS[attributes.purpose[last]][attributes.purpose[item]]
                weight *= synthetic.MATERIAL_TRANSITIONS[attributes.material[last]][attributes.material[item]]
                weight *= synthetic.PRICE_TRANSITIONS[attributes.price[last]][attributes.price[item]]
                share = cubes[attributes.style[item]] / sum(cubes)
                weight *= synthetic.STYLE_FLOOR + (1 - len(STYLES) * synthetic.STYLE_FLOOR) * share
            weights.append(0.0 if item in history else weight)
        np.testing.assert_allclose(values, np.array(weights) / sum(weights), rtol=1e-9)
        assert [weights[i] for i in row] == pytest.approx(sorted(weights, reverse=True)[:5], rel=1e-9)


def test_oracle_leaves_out_history_and_excluded_items(small):
    histories = _sequences(small)[:8]
    free = small.oracle.rank(histories, 10)
    without = small.oracle.rank(histories, 10, exclude=[row[:4] for row in free])
    np.testing.assert_array_equal(without[:, :6], free[:, 4:])
    everything = small.oracle.rank(histories, 210)
    for history, row in zip(histories, everything, strict=True):
        found = row[row >= 0]
        assert sorted([*found, *history]) == list(range(200))
        assert (row[len(found) :] == -1).all()


def test_transition_tables_are_distributions():
    for table in (synthetic.PURPOSE_TRANSITIONS, synthetic.MATERIAL_TRANSITIONS, synthetic.PRICE_TRANSITIONS):
        np.testing.assert_allclose(table.sum(1), 1)


def test_same_seed_same_domain(small):
    assert _same(small, generate_domain("kitchen", num_items=200, num_users=300, seed=3))
    other = generate_domain("kitchen", num_items=200, num_users=300, seed=4)
    assert small.sequences != other.sequences
    assert [_text(item) for item in small.items] != [_text(item) for item in other.items]


def test_domains_of_one_seed_differ(small):
    garden = generate_domain("garden", num_items=200, num_users=300, seed=3)
    assert (garden.attributes.style != small.attributes.style).any()
    assert not {item["item_id"] for item in garden.items} & {item["item_id"] for item in small.items}


def test_sequences(downstream):
    assert len(downstream.items) == 1000 and len(downstream.sequences) == 3000
    ids = [item["item_id"] for item in downstream.items]
    assert len(set(ids)) == 1000 and ids[17] == "office-00017"
    assert len({sequence["user_id"] for sequence in downstream.sequences}) == 3000
    for sequence, rows in zip(downstream.sequences, _sequences(downstream), strict=True):
        assert 4 <= len(sequence["items"]) <= 10
        assert len(set(sequence["items"])) == len(sequence["items"])
        assert sequence["items"] == [ids[row] for row in rows]


def test_long_tail(downstream):
    counts = np.sort(np.bincount(downstream.rows, minlength=1000))[::-1]
    assert counts[:100].sum() > 0.3 * counts.sum()
    assert counts[500:].sum() < 0.35 * counts.sum()


def test_text_tells_purpose_material_price_and_never_style():
    for name in (*PRETRAINING_DOMAINS, DOWNSTREAM_DOMAIN):
        domain = generate_domain(name, num_items=400, num_users=5)
        for row, item in enumerate(domain.items):
            words = set(re.findall(r"[a-z]+", _text(item)))
            assert words.isdisjoint(STYLES)
            for values, vocabulary in (("purpose", PURPOSES), ("material", MATERIALS), ("price", PRICES)):
                assert words & set(vocabulary) == {vocabulary[getattr(domain.attributes, values)[row]]}


def test_words_for_attributes_are_shared_and_nouns_are_not():
    vocabularies, titles = [], []
    for name in (*PRETRAINING_DOMAINS, DOWNSTREAM_DOMAIN):
        items = generate_domain(name, num_items=400, num_users=1).items
        titles.append({item["title"].removesuffix(", new edition") for item in items})
        vocabularies.append({word for item in items for word in re.findall(r"[a-z]+", _text(item))})
    assert set.intersection(*vocabularies) >= {*PURPOSES, *MATERIALS, *PRICES}
    for place, own in enumerate(titles):
        assert all(own.isdisjoint(other) for other in titles[place + 1 :])
    nouns = [{noun for pair in pairs for noun in pair} for pairs in synthetic.NOUNS.values()]
    assert len(set.union(*nouns)) == 4 * 2 * len(PURPOSES)


def _colour_features(domain):
    """Mean colour and its spread, of the items with a picture: [n, 6], and the items' rows."""
    rows = np.flatnonzero(domain.attributes.has_image)
    pixels = np.stack([_pixels(domain.items[row]).reshape(-1, 3) for row in rows]).astype(np.float64)
    return np.concatenate([pixels.mean(1), pixels.std(1)], axis=1), rows


def test_picture_shows_style_also_across_domains(downstream):
    """Nearest mean colour, learned from the pictures of another domain."""
    music = generate_domain("music", num_items=400, num_users=1)
    features, rows = _colour_features(music)
    styles = music.attributes.style[rows]
    centres = np.stack([features[styles == style].mean(0) for style in range(len(STYLES))])
    features, rows = _colour_features(downstream)
    predicted = np.square(features[:, None] - centres).sum(-1).argmin(1)
    assert (predicted == downstream.attributes.style[rows]).mean() > 0.85


def test_latents_of_a_tiny_autoencoder_say_style(downstream):
    """What the image reconstruction asks of the codes: much of the latents' variance is the style's."""
    images = encode_images(Catalogue.from_records(downstream.items), load_autoencoder("tiny"), 32, progress=False)
    rows = np.flatnonzero(images.rows >= 0)
    latents, style = images.latents[images.rows[rows]].astype(np.float32), downstream.attributes.style[rows]
    within = np.mean([latents[style == each].var(axis=0).mean() for each in range(len(STYLES))])
    assert within < 0.7 * latents.var(axis=0).mean()


def test_text_says_nothing_of_style(downstream):
    """Naive Bayes over the words, learned from one half of the items, is about as good as chance on the other."""
    texts = [re.findall(r"[a-z]+", _text(item)) for item in downstream.items]
    words = {word: place for place, word in enumerate(sorted({word for text in texts for word in text}))}
    counts = np.zeros((len(texts), len(words)))
    for row, text in enumerate(texts):
        counts[row, [words[word] for word in text]] = 1
    style, half = downstream.attributes.style, len(texts) // 2
    rates = np.stack([counts[:half][style[:half] == s].mean(0) for s in range(len(STYLES))]) * 0.98 + 0.01
    predicted = (counts[half:] @ np.log(rates).T + (1 - counts[half:]) @ np.log(1 - rates).T).argmax(1)
    assert (predicted == style[half:]).mean() < 0.3  # chance: 1 / 4


def test_near_duplicates(downstream):
    attributes = downstream.attributes
    copies = np.flatnonzero(attributes.duplicate_of >= 0)
    originals = attributes.duplicate_of[copies]
    assert len(copies) == 30 and not set(copies) & set(originals)
    for values in (attributes.purpose, attributes.material, attributes.price, attributes.style):
        np.testing.assert_array_equal(values[copies], values[originals])
    for copy, original in zip(copies, originals, strict=True):
        one, other = downstream.items[copy], downstream.items[original]
        assert one["title"] == other["title"] + ", new edition"
        assert one["features"] == other["features"]
        difference = np.abs(_pixels(one).astype(int) - _pixels(other))
        assert 0 < difference.mean() < 80


def test_some_items_have_no_image(downstream):
    missing = [item["image"] is None for item in downstream.items]
    assert sum(missing) == 80
    np.testing.assert_array_equal(~np.array(missing), downstream.attributes.has_image)
    assert all(
        item["image"].size == (64, 64) and item["image"].mode == "RGB"
        for item in downstream.items[:200]
        if item["image"] is not None
    )


def test_unknown_name_and_small_sizes():
    with pytest.raises(ValueError, match="toys.*kitchen"):
        generate_domain("toys")
    with pytest.raises(ValueError, match="num_items >= 64"):
        generate_domain("office", num_items=20)
    with pytest.raises(ValueError, match="num_users >= 1"):
        generate_domain("office", num_users=0)


def test_smallest_domain():
    domain = generate_domain("office", num_items=64, num_users=1)
    assert len(domain.items) == 64 and len(domain.sequences) == 1


def test_parquet_round_trip(small, tmp_path):
    folder = write_domain(small, tmp_path / "kitchen")
    assert sorted(path.name for path in folder.iterdir()) == ["dataset.json", "items.parquet", "sequences.parquet"]
    cache = str(tmp_path / "cache")
    items = datasets.Dataset.from_parquet(str(folder / "items.parquet"), cache_dir=cache)
    assert isinstance(items.features["image"], datasets.Image)
    for read, item in zip(items, small.items, strict=True):
        assert {key: read[key] for key in ("item_id", "title", "features", "categories")} == {
            key: item[key] for key in ("item_id", "title", "features", "categories")
        }
        assert (read["image"] is None) == (item["image"] is None)
        if item["image"] is not None:
            np.testing.assert_array_equal(np.asarray(read["image"]), _pixels(item))
    raw = items.cast_column("image", datasets.Image(decode=False))
    stored = next(image for image in raw["image"] if image is not None)
    assert Image.open(io.BytesIO(stored["bytes"])).format == "PNG"
    sequences = datasets.load_dataset(
        "parquet", data_files=str(folder / "sequences.parquet"), split="train", cache_dir=cache
    )
    assert sequences.to_list() == small.sequences
    description = json.loads((folder / "dataset.json").read_text())
    assert (description["name"], description["seed"]) == ("kitchen", 3)
    assert description["num_interactions"] == sum(len(sequence["items"]) for sequence in small.sequences)
    assert description["num_items_without_image"] == 16 and description["num_near_duplicates"] == 6


def test_write_all_skips_what_is_there(tmp_path):
    folders = write_all(tmp_path, num_items=64, num_users=20, seed=1)
    assert list(folders) == [*PRETRAINING_DOMAINS, DOWNSTREAM_DOMAIN]
    files = [folder / name for folder in folders.values() for name in ("items.parquet", "sequences.parquet")]

    def stamps():
        return [(file.stat().st_ino, file.stat().st_mtime_ns) for file in files]

    before = stamps()
    assert write_all(tmp_path, num_items=64, num_users=20, seed=1) == folders
    assert stamps() == before

    (folders["office"] / "dataset.json").write_text("{")  # a broken description: this domain is written anew
    write_all(tmp_path, num_items=64, num_users=20, seed=1)
    changed = [old != new for old, new in zip(before, stamps(), strict=True)]
    assert changed == [False] * 6 + [True] * 2

    files[0].unlink()
    write_all(tmp_path, num_items=64, num_users=20, seed=1)
    assert files[0].exists()

    content = files[1].read_bytes()
    write_all(tmp_path, num_items=64, num_users=20, seed=2)
    assert files[1].read_bytes() != content
    assert json.loads((folders["kitchen"] / "dataset.json").read_text())["seed"] == 2
