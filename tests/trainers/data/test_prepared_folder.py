"""The folder that is written: what is in it, what says so, and what is left after a crash."""

import io
import json
from datetime import datetime

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.numpy import load_file

from tokenization_items.catalogue import Catalogue
from trainers.data import prepared_folder, prepared_images
from trainers.data.co_occurrence import CoOccurrenceGraph
from trainers.data.domains import load_domains
from trainers.data.interactions import Interactions
from trainers.data.preparation import PreparationChoices
from trainers.data.prepared_folder import PreparedDataError, check_prepared, prepare_data_set, sha256_of
from trainers.data.prepared_images import Downloads, cache_path
from trainers.data.readers import READERS, ReadError, TabularReader

LATEST = datetime(2026, 1, 1)
NUM_USERS, NUM_ITEMS = 8, 6


def encoded(colour="red", form="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, form)
    return buffer.getvalue()


@pytest.fixture
def source(tmp_path):
    """A shop: eight users with all six items each, one user with one item, one item without text, three images."""
    folder = tmp_path / "shop"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user}", f"i{item}", 1_600_000_000 + int(rng.integers(10_000)))
        for user in range(NUM_USERS)
        for item in range(NUM_ITEMS)
    ]
    rows += [("once", "i0", 1_600_000_000), ("u0", "nothing", 1_600_000_000), ("u0", "unknown", 1_600_000_000)]
    rows = [rows[place] for place in rng.permutation(len(rows))]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    frame.write_csv(folder / "log.csv")
    for name, content in (("i0.png", encoded()), ("odd.bin", encoded(form="JPEG")), ("broken.jpg", b"\xff\xd8\xff")):
        (folder / name).write_bytes(content)
    items = [
        {"item_id": "i0", "title": "A &amp; B", "features": ["f<br>"], "image": "i0.png"},
        {"item_id": "rare", "title": "Nobody's"},
        {"item_id": "i2", "title": "", "image": "odd.bin"},  # only an image
        {"item_id": "i1", "title": "Two", "image": "broken.jpg"},
        {"item_id": "i3", "title": "Three", "image": "absent.jpg", "image_url": "https://x/3"},
        {"item_id": "i4", "title": "Four", "categories": ["c", "d"], "image_url": "https://x/4"},
        {"item_id": "i5", "title": "Five", "brand": "Maker", "image_url": "https://x/5"},
        {"item_id": "nothing", "title": "<br>"},
    ]
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return TabularReader(folder / "log.csv", folder / "items.jsonl")


def prepare(reader, output, **settings):
    names = ("split", "k_core", "text_fields", "ratios", "items_without_interactions")
    choices = {} if settings.get("k_core") == 0 else {"items_without_interactions": "drop"}
    choices |= {name: settings.pop(name) for name in names if name in settings}
    return prepare_data_set(reader, output, PreparationChoices(**choices), LATEST, **settings)


def test_the_folder_and_its_account(source, tmp_path):
    document = prepare(source, tmp_path / "out", co_occurrence=True)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    made = {"items.parquet", "interactions.parquet", "images", "co_occurrence.safetensors", "prepared.json"}
    assert names == made | {"left_out.parquet"}
    assert document == json.loads((tmp_path / "out" / "prepared.json").read_text())
    assert {path.name for path in tmp_path.iterdir()} == {"shop", "out"}

    counts, dropped = document["counts"], document["dropped"]
    assert (counts["users"], counts["items"], counts["interactions"]) == (8, 6, 48)
    for kind, kept in (("interactions", counts["interactions"]), ("items", counts["items"])):
        assert document["read"][kind] == kept + sum(entry["count"] for entry in dropped[kind].values())
    assert {reason: entry["count"] for reason, entry in dropped["interactions"].items()} == {
        "its item is not among the items": 1,
        "its item has neither text nor image": 1,
        "not in the 5-core": 1,
    }
    assert {reason: entry["count"] for reason, entry in dropped["items"].items()} == {
        "neither text nor image": 1,
        "not enough interactions": 1,
    }
    assert dropped["images"]["the file is missing or cannot be decoded"]["count"] == 2
    assert document["choices"]["k_core"] == 5 and document["choices"]["latest_time"] == "2026-01-01T00:00:00"
    assert document["source"]["format"] == "tabular" and len(document["source"]["files"][0]["sha256"]) == 64
    assert check_prepared(tmp_path / "out") == document


@pytest.mark.parametrize("given", [None, "keep", "drop"])
def test_items_without_interactions_are_candidates_unless_a_benchmark_says_not(source, tmp_path, given):
    document = prepare(source, tmp_path / "out", items_without_interactions=given)
    counts, reasons = document["counts"], document["dropped"]["items"]
    catalogue = Catalogue.from_folder(tmp_path / "out")
    left_out = pl.read_parquet(tmp_path / "out" / "left_out.parquet").rows()
    expected = [("item", "nothing", "neither text nor image"), ("user", "once", "not enough interactions")]
    if given == "drop":
        expected.insert(0, ("item", "rare", "not enough interactions"))
        assert "rare" not in catalogue.item_ids and reasons["not enough interactions"]["count"] == 1
    else:
        assert catalogue.item_ids == ["i0", "rare", "i2", "i1", "i3", "i4", "i5"]
        assert "not enough interactions" not in reasons
    assert left_out == expected
    assert document["choices"]["items_without_interactions"] == (given or "keep")
    assert counts["items_without_interactions"] == (given != "drop") and counts["users_left_out"] == 1
    assert counts["interactions"] == 48  # whichever items are there
    (domain,) = load_domains([str(tmp_path / "out")])
    assert domain.interactions.popularity.tolist().count(0) == (given != "drop")
    assert check_prepared(tmp_path / "out") == document


def test_published_layouts_have_the_candidates_of_their_benchmarks():
    keeps = {name: getattr(reader, "func", reader).keeps_items for name, reader in READERS.items()}
    assert {name for name, keep in keeps.items() if keep} == {"tabular"}
    assert PreparationChoices(k_core=0).keeps_items and not PreparationChoices(k_core=5).keeps_items
    with pytest.raises(ValueError, match="'keep' or 'drop', got 'some'"):
        PreparationChoices(items_without_interactions="some")


def test_ratings_stay_with_their_interactions(source, tmp_path):
    log = pl.read_csv(tmp_path / "shop" / "log.csv")
    rating = pl.col("item_id").str.slice(1).cast(pl.Float64, strict=False) / 2
    log = log.with_columns(rating=pl.when(pl.col("user_id") != "u3").then(rating))
    log.write_csv(tmp_path / "shop" / "log.csv")
    prepare(source, tmp_path / "out", split="ratio")
    assert pl.read_parquet(tmp_path / "out" / "interactions.parquet").columns[-2:] == ["rating", "split"]
    found = Interactions.from_folder(tmp_path / "out", [f"i{item}" for item in range(NUM_ITEMS)])
    unrated = np.repeat(np.array(found.user_ids) == "u3", found.lengths)
    assert unrated.sum() == NUM_ITEMS
    np.testing.assert_array_equal(found.ratings, np.where(unrated, np.nan, found.items / 2))


def test_it_is_read_by_catalogue_and_interactions(source, tmp_path):
    prepare(source, tmp_path / "out", co_occurrence=True)
    catalogue = Catalogue.from_folder(tmp_path / "out")
    assert catalogue.item_ids == ["i0", "i2", "i1", "i3", "i4", "i5"]  # as in the items' file
    assert catalogue.check() == {"num_items": 6, "num_texts": 5, "num_images": 2, "num_images_checked": 2}
    assert catalogue.texts[0] == "A & B. f" and catalogue.texts[4] == "Four. c, d" and catalogue.texts[1] == ""
    assert sorted(path.name for path in (tmp_path / "out" / "images").iterdir()) == ["i0.png", "i2.jpg"]

    interactions = Interactions.from_folder(tmp_path / "out", catalogue.item_ids)
    log = pl.read_csv(tmp_path / "shop" / "log.csv")
    assert interactions.user_ids == [user for user in log["user_id"].unique(maintain_order=True) if user != "once"]
    known = log.filter(pl.col("item_id").is_in(catalogue.item_ids))
    for row, user in enumerate(interactions.user_ids):
        expected = known.filter(pl.col("user_id") == user).sort("timestamp", maintain_order=True)["item_id"].to_list()
        assert [catalogue.item_ids[item] for item in interactions.sequence(row)] == expected
    written = pl.read_parquet(tmp_path / "out" / "interactions.parquet")
    assert written.columns == ["user_id", "item_id", "timestamp"] and written["timestamp"].dtype == pl.Int64
    assert written["timestamp"].max() > 1_600_000_000_000_000  # microseconds

    assert interactions.ratings is None

    graph = load_file(tmp_path / "out" / "co_occurrence.safetensors")
    neighbours = CoOccurrenceGraph.from_interactions(interactions.training_part())
    assert np.array_equal(graph["indptr"], neighbours.indptr) and np.array_equal(graph["indices"], neighbours.indices)
    assert graph["counts"].min() >= 1 and graph["counts"].dtype == np.int32
    (domain,) = load_domains([str(tmp_path / "out")])
    assert len(domain.catalogue) == 6


def test_the_split_is_a_column_that_interactions_read(source, tmp_path):
    document = prepare(source, tmp_path / "out", split="ratio", ratios=(0.6, 0.2, 0.2))
    written = pl.read_parquet(tmp_path / "out" / "interactions.parquet")
    assert written["split"].to_list() == (["train"] * 4 + ["validation", "test"]) * 8
    assert document["counts"]["split"] == {"train": 32, "validation": 8, "test": 8}
    interactions = Interactions.from_folder(tmp_path / "out", Catalogue.from_folder(tmp_path / "out").item_ids)
    assert interactions.split == "ratio" and len(interactions.cases("test")) == 8
    assert interactions.training_part().lengths.tolist() == [4] * 8


def test_the_graph_of_a_temporal_split_is_that_of_its_training_part(source, tmp_path):
    prepare(source, tmp_path / "out", split="temporal", co_occurrence=True)
    interactions = Interactions.from_folder(tmp_path / "out", Catalogue.from_folder(tmp_path / "out").item_ids)
    graph = load_file(tmp_path / "out" / "co_occurrence.safetensors")
    neighbours = CoOccurrenceGraph.from_interactions(interactions.training_part())
    assert np.array_equal(graph["indptr"], neighbours.indptr) and np.array_equal(graph["indices"], neighbours.indices)


def test_text_fields_are_a_choice(source, tmp_path):
    document = prepare(source, tmp_path / "out", text_fields=("title",))
    items = pl.read_parquet(tmp_path / "out" / "items.parquet")
    assert items.columns == ["item_id", "title", "image", "image_url"]
    assert document["choices"]["text_fields"] == ["title"]
    # in a field that only one item has, the others have no text
    with pytest.raises(ReadError, match="neither text nor image"):
        prepare(source, tmp_path / "out2", text_fields=("brand",), k_core=9)
    assert not (tmp_path / "out2").exists()


def test_without_a_core_items_without_interactions_stay(source, tmp_path):
    document = prepare(source, tmp_path / "out", k_core=0)
    assert document["counts"]["items"] == 7 and document["counts"]["users_too_short_to_split"] == 1
    catalogue = Catalogue.from_folder(tmp_path / "out")
    assert "rare" in catalogue.item_ids
    Interactions.from_folder(tmp_path / "out", catalogue.item_ids)


def test_a_log_without_items(source, tmp_path):
    document = prepare(TabularReader(source.interactions), tmp_path / "out")
    assert document["counts"]["items"] == 6 and "items" not in document["read"]
    catalogue = Catalogue.from_folder(tmp_path / "out")
    assert catalogue.texts == [""] * 6 and not any(catalogue.has_image(row) for row in range(6))
    Interactions.from_folder(tmp_path / "out", catalogue.item_ids)


def test_twice_the_same(source, tmp_path):
    first = prepare(source, tmp_path / "a", co_occurrence=True)
    second = prepare(source, tmp_path / "b", co_occurrence=True)
    assert first["checksums"] == second["checksums"]
    assert {**first, "name": ""} == {**second, "name": ""}


def test_written_in_parts(source, tmp_path, monkeypatch):
    whole = prepare(source, tmp_path / "a")
    monkeypatch.setattr(prepared_folder, "WRITTEN_ROWS", 7)
    prepare(source, tmp_path / "b")
    a, b = (pl.read_parquet(tmp_path / name / "interactions.parquet") for name in "ab")
    assert a.equals(b) and a.height == whole["counts"]["interactions"]


def test_changes_are_noticed(source, tmp_path):
    with pytest.raises(PreparedDataError, match="no prepared data folder"):
        check_prepared(tmp_path)
    prepare(source, tmp_path / "out")
    (tmp_path / "out" / "images" / "i0.png").unlink()
    with (tmp_path / "out" / "items.parquet").open("ab") as file:
        file.write(b"x")
    (tmp_path / "out" / "extra.txt").write_text("")
    with pytest.raises(PreparedDataError, match="extra.txt, images/, items.parquet differ"):
        check_prepared(tmp_path / "out")


def test_an_output_that_is_there_or_holds_the_source(source, tmp_path):
    prepare(source, tmp_path / "out")
    before = check_prepared(tmp_path / "out")
    with pytest.raises(FileExistsError, match="not empty"):
        prepare(source, tmp_path / "out", k_core=0)
    assert check_prepared(tmp_path / "out") == before
    assert prepare(source, tmp_path / "out", k_core=0, overwrite=True)["counts"]["items"] == 7
    with pytest.raises(FileExistsError, match="log.csv lies in"):
        prepare(source, tmp_path / "shop", overwrite=True)
    assert (tmp_path / "shop" / "log.csv").exists()


# --- images that are fetched


@pytest.fixture
def net(monkeypatch):
    """Stands in for the network: `https://x/4` is an image, the rest is not there; remembers what was asked for."""
    asked = []

    def download(addresses, cache, workers):
        asked.append(list(addresses))
        found = Downloads()
        for address in addresses:
            if address == "https://x/4":
                path = cache_path(cache, address)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encoded("blue", "WEBP"))
                found.paths[address] = path
            else:
                found.failures[address] = "HTTP 404 Not Found"
        return found

    monkeypatch.setattr(prepared_images, "download_images", download)
    return asked


def test_nothing_is_fetched_unasked(source, tmp_path, net):
    document = prepare(source, tmp_path / "out")
    assert net == [] and not (tmp_path / ".image_cache").exists()
    assert pl.read_parquet(tmp_path / "out" / "items.parquet")["image_url"].null_count() == 3
    assert document["counts"]["items_with_image"] == 2


def test_images_are_fetched_and_failures_listed(source, tmp_path, net):
    document = prepare(source, tmp_path / "out", download=True)
    assert net == [["https://x/3", "https://x/4", "https://x/5"]]  # also where the file of the source is broken
    assert (tmp_path / ".image_cache").is_dir()
    catalogue = Catalogue.from_folder(tmp_path / "out")
    assert catalogue.check()["num_images"] == 3 and document["counts"]["items_with_image"] == 3
    assert np.asarray(catalogue.image(catalogue.item_ids.index("i4")))[0, 0, 2] > 200
    failures = [json.loads(line) for line in (tmp_path / "out" / "image_failures.jsonl").read_text().splitlines()]
    assert failures == [
        {"item_id": f"i{item}", "image_url": f"https://x/{item}", "reason": "HTTP 404 Not Found"} for item in (3, 5)
    ]
    assert document["dropped"]["images"]["could not be fetched"]["count"] == 2
    check_prepared(tmp_path / "out")
    prepare(source, tmp_path / "other", download=True, image_cache=tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere").is_dir()


# --- crashes


@pytest.mark.parametrize("place", ["prepare_log", "_write_interactions", "co_occurrence_counts", "_checksums"])
def test_an_error_half_way_leaves_nothing(source, tmp_path, monkeypatch, place):
    def fail(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(prepared_folder, place, fail)
    with pytest.raises(OSError, match="No space"):
        prepare(source, tmp_path / "out", co_occurrence=True)
    assert [path.name for path in tmp_path.iterdir()] == ["shop"]


def test_a_kill_half_way_leaves_no_data_set(source, tmp_path, monkeypatch):
    """As after a kill when all but prepared.json is written: nothing is tidied up."""
    with monkeypatch.context() as patch:
        patch.setattr("tokenization_items.files.shutil.rmtree", lambda *args, **kwargs: None)
        patch.setattr(prepared_folder, "_checksums", lambda folder: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(source, tmp_path / "sets" / "out")
    (left,) = (tmp_path / "sets").iterdir()
    assert left.name.startswith(".out.unfinished-") and (left / "interactions.parquet").exists()
    with pytest.raises(FileNotFoundError, match="holds no domain"):
        load_domains([str(tmp_path / "sets")])
    prepare(source, tmp_path / "sets" / "out")
    assert [domain.name for domain in load_domains([str(tmp_path / "sets")])] == ["out"]


def test_checksum(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256_of(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_items_have_the_same_bytes_however_they_come(tmp_path, monkeypatch):
    """Row groups are cut by their number, not by how many threads or files there were."""
    monkeypatch.setattr(prepared_folder, "WRITTEN_ITEMS", 50)
    fields = ("title", "features")
    features = [None if row % 7 == 0 else [f"f{number}" for number in range(row % 4)] for row in range(320)]
    texts = {name: [f"{name} {row}" for row in range(320)] for name in ("item_id", "title")}
    items = pl.DataFrame(texts | {"features": features}).with_columns(image_url=pl.lit(None, pl.String))
    for number, (start, stop) in enumerate([(0, 3), (3, 170), (170, 171), (171, 320)]):
        items[start:stop].write_ipc(tmp_path / f"{number}.arrow")
    sources = (items.lazy(), pl.scan_ipc(tmp_path / "*.arrow"), pl.concat([items[:200], items[200:]]).lazy())
    written = []
    for number, source in enumerate(sources):
        path = tmp_path / f"{number}.parquet"
        prepared_folder.write_items(source, {"item_id 3": "images/3.png"}, fields, path)
        written.append(path.read_bytes())
        file = pq.ParquetFile(path)
        assert [file.metadata.row_group(group).num_rows for group in range(7)] == [50] * 6 + [20]
        assert pl.read_parquet(path).drop("image").equals(items.select("item_id", *fields, "image_url"))
    assert written[0] == written[1] == written[2]
