"""`utgrec tokenize` every day: folders that are brought up to date in one step, and errors before any work."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from safetensors.torch import load_file

from tokenization_items import UniversalItemTokenizer
from tokenization_items.catalogue_updates import JOURNAL_NAME, read_journal
from tokenization_items.item_memory import MEMORY_NAME, StoredMemory
from trainers import Interactions, Recommender
from trainers.commands import run_command
from trainers.commands import tokenize as module
from trainers.methods.memory import build_memory, for_index
from trainers.methods.recommendation_rules import RECOMMENDER_FILE

CHECKPOINTS = Path(__file__).parents[2] / "checkpoints" / "version_0_1"
ITEMS = [json.loads(line) for line in (CHECKPOINTS / "items" / "items.jsonl").read_text().splitlines()]
COLUMNS = ["id", "bezeichnung", "marke", "beschreibung", "preis"]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """Networks of a release, and with RecBase's recommender a memory of what followed what."""
    for name in (
        "recbase_recommender",
        "recbase_tokenizer",
        "text_encoder",
        "utgrec_tokenizer_text",
        "rqvae",
        "tiger",
    ):
        if (CHECKPOINTS / name).is_dir():
            shutil.copytree(CHECKPOINTS / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    index = UniversalItemTokenizer.from_pretrained("recbase_recommender", index_only=True).index
    rng = np.random.default_rng(0)
    walks = [[index.item_ids[row] for row in rng.integers(0, len(index), 5)] for _ in range(20)]
    interactions = Interactions.from_sequences(walks, index.item_ids)
    content = np.random.default_rng(1).normal(size=(len(index), 4)).astype(np.float32)
    for_index(build_memory(interactions, content), index.item_ids, index).save("recbase_recommender", index)
    return tmp_path


def write(name, items, separator=";", encoding="cp1252"):
    with open(name, "w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerow(COLUMNS)
        for item in items:
            price = f"{len(item['item_id'])},50"
            writer.writerow([item["item_id"], item["title"], item.get("brand"), item.get("description"), price])


def new_items(*names):
    return [
        {"item_id": name, "title": f"Wooden {name} with a round base", "description": "für alle"} for name in names
    ]


def tokenize(*flags):
    run_command("tokenize", ["--use_cpu", *map(str, flags)])


def ids_of(folder) -> dict[str, list[int]]:
    tokenizer = UniversalItemTokenizer.from_pretrained(folder, index_only=True)
    return {item_id: tokenizer.encode(item_id) for item_id in tokenizer.index.item_ids}


def contents(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_week_of_a_recommender(workplace, capsys):
    """Its folder's index, memory and journal go on together; its network is not touched."""
    folder = workplace / "recbase_recommender"
    before, weights = ids_of(folder), (folder / "model.safetensors").read_bytes()
    old = Recommender.from_pretrained(folder).recommend([[ITEMS[0]["item_id"]]], top_k=10, num_beams=64)
    known = dict(before)
    for day in range(7):
        items = [*ITEMS[: 6 + day], *new_items(f"item{day}", f"thing{day}")]
        if day >= 3:
            items[0] = items[0] | {"title": "Iron kettle"}
        write("products.csv", items, separator=";|,\t"[day % 4])
        tokenize("--tokenizer", folder, "--data", "products.csv")
        now = ids_of(folder)
        assert known.items() <= now.items() and len(now) == len(known) + 2
        known = now
        stored = StoredMemory.load(folder, UniversalItemTokenizer.from_pretrained(folder, index_only=True).index)
        assert stored.memory.num_items == len(now)
        assert Recommender.from_pretrained(folder).recommend([f"item{day}"], top_k=3)
    assert (folder / "model.safetensors").read_bytes() == weights
    lines = read_journal(folder)
    assert [line["added"] for line in lines] == [2] * 7 and lines[0]["unknown"] == 6
    assert [line["changed"] for line in lines] == [0, 0, 0, 1, 0, 0, 0] and lines[6]["drift"]["stale"] == 1
    assert [line["missing"] for line in lines][0] == len(before) - 6
    assert {line["columns"]["title"] for line in lines} == {"bezeichnung"}
    shown = capsys.readouterr().out
    assert (
        "title     bezeichnung" in shown and f"2 items added, {len(known)} in all" in shown and "--retokenize" in shown
    )
    # the order of what was there before is as it was
    after = Recommender.from_pretrained(folder).recommend([[ITEMS[0]["item_id"]]], top_k=24, num_beams=64)
    order = [each["item_id"] for each in after[0] if each["item_id"] in before]
    assert order[: len(old[0])] == [each["item_id"] for each in old[0]]
    # what changed, and what is not there any more
    write("products.csv", [items[0], *items[2:]])
    tokenize("--tokenizer", folder, "--data", "products.csv", "--retokenize", "--remove_missing")
    last = read_journal(folder)[-1]
    assert last["item_ids"]["retokenized"] == [ITEMS[0]["item_id"]] and last["drift"]["stale"] == 0
    assert last["removed"] == len(known) - len(items) + 1 and len(ids_of(folder)) == len(items) - 1
    files = contents(folder)
    tokenize("--tokenizer", folder, "--data", "products.csv")  # nothing is new, and nothing is written
    assert contents(folder) == files


def test_to_another_folder_as_before(workplace):
    (workplace / "data").mkdir()
    pl.DataFrame(ITEMS).drop("image").write_ndjson(workplace / "data" / "items.jsonl")
    tokenize("--tokenizer", "utgrec_tokenizer_text", "--data", "data", "--only_new", "--output_dir", "again")
    before = ids_of("utgrec_tokenizer_text")
    assert before.items() <= ids_of("again").items() and len(ids_of("again")) == len(ITEMS) > len(before)
    write("new.csv", new_items("a", "b"), encoding="utf-16")
    tokenize("--tokenizer", "again", "--data", "new.csv", "--output_dir", "more", "--index_only")
    assert [*ids_of("more")][-2:] == ["a", "b"] and not (workplace / "more" / "config.json").exists()
    report = json.loads((workplace / "more" / "assignment_report.json").read_text())
    assert report["num_items"] == 2
    told = yaml.safe_load((workplace / "more" / "run.yaml").read_text())
    assert (told["tokenizer"], told["data"], told["index_only"]) == ("again", "new.csv", True)
    added = [line["added"] for line in read_journal(workplace / "more")]
    assert added == [len(ITEMS) - len(before), 2]  # with the lines of before
    with pytest.raises(SystemExit, match="holds a finished item tokenizer"):
        tokenize("--tokenizer", "again", "--data", "new.csv", "--output_dir", "more")


def test_columns_are_those_of_the_day_before(workplace):
    folder = workplace / "recbase_recommender"
    write("products.csv", new_items("a", "b", "c"))
    tokenize("--tokenizer", folder, "--data", "products.csv", "--columns", "text=marke", "price=-")
    write("products.csv", new_items("a", "b", "c", "d"))
    tokenize("--tokenizer", folder, "--data", "products.csv")
    first, second = read_journal(folder)
    assert second["changed"] == 0 and second["columns"] == first["columns"] and first["columns"]["text"] == ["marke"]
    tokenize("--tokenizer", folder, "--data", "products.csv", "--columns", "text=beschreibung")
    assert read_journal(folder)[-1]["changed"] == 4


def test_recall_of_the_newest_items(workplace, capsys):
    folder, rng = workplace / "recbase_recommender", np.random.default_rng(0)
    write("products.csv", new_items("a", "b"))
    bought = [*[each["item_id"] for each in ITEMS], "a", "b", "unheard"]
    rows = [(f"u{user}", bought[rng.integers(len(bought))], step) for user in range(30) for step in range(4)]
    pl.DataFrame(rows, schema=["kunde", "id", "zeit"], orient="row").write_csv("orders.csv")
    flags = ["--tokenizer", folder, "--data", "products.csv", "--orders", "orders.csv"]
    tokenize(*flags, "--columns", "user=kunde", "item=id", "time=zeit")
    recall = read_journal(folder)[-1]["recall"]
    newest = [number for user in range(30) for number in range(1, 4) if rows[4 * user + number][1] in ("a", "b")]
    assert 0 < recall["new_items"]["num_cases"] <= len(newest) and recall["older_items"]["num_cases"] > 10
    assert "new items: Recall@10" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="--orders is for a recommender"):
        tokenize("--tokenizer", "recbase_tokenizer", "--data", "products.csv", "--orders", "orders.csv")


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        ("sku,name\na,red pen\na,ink\n", [], r"1 ids of the column 'sku' occur in several rows: 'a' in lines 2, 3"),
        ("sku,name\na,red pen\n,ink\n", [], "1 rows have no id in the column 'sku': 'products.csv, line 3'"),
        ("sku,name\na,red pen\nb,\n", [], r"1 new items have no text and no image: products.csv, line 3: 'b'"),
        ("sku,name\na,red pen\n", ["--columns", "text=farbe"], "no column 'farbe'.*it has 'sku', 'name'"),
        ("sku,name\na,red pen\n", ["--columns", "id"], "expected role=column"),
        ("sku,name\na,red pen\nb,x,y\n", [], "line 3"),
        ("gar nichts\n", [], "has one column"),
        ("sku,name\na,red pen\n", ["--only_new", "--remove_missing"], "Leave it out for --retokenize"),
        ("sku,name\na,red pen\n", ["--columns", "user=sku"], "expected role=column"),
        ("sku,name\na,red pen\n", ["--tokenizer", "tiger"], "no encoder of texts is known|cannot tokenize new items"),
        ("sku,name\na,red pen\n", ["--tokenizer", "org/none"], "no folder, which could be brought up to date"),
    ],
)
def test_errors_before_any_work(workplace, text, flags, message):
    (workplace / "products.csv").write_text(text)
    folder = workplace / "recbase_recommender"
    before = contents(folder)
    with pytest.raises(SystemExit, match=message):
        tokenize("--tokenizer", folder, "--data", "products.csv", *flags)
    assert contents(folder) == before


def test_collapsed_codes_leave_the_folder_as_it_was(workplace):
    write("same.csv", [{"item_id": f"n{row}", "title": "Wooden bowl"} for row in range(100)])
    before = ids_of("utgrec_tokenizer_text")
    flags = ["--tokenizer", "utgrec_tokenizer_text", "--data", "same.csv"]
    with pytest.raises(SystemExit, match="100 of 100 items have the codes .* --allow_collapsed_codes"):
        tokenize(*flags)
    assert ids_of("utgrec_tokenizer_text") == before
    tokenize(*flags, "--allow_collapsed_codes")
    assert len(ids_of("utgrec_tokenizer_text")) == len(before) + 100


def test_ids_that_were_numbers(workplace):
    """Ids of a data frame, a parquet file and a csv are the same items."""
    folder = workplace / "recbase_recommender"
    frame = pl.DataFrame({"id": [7, 8], "name": ["red pen of steel", "blue ink of glass"]})
    frame.write_csv("products.csv")
    tokenize("--tokenizer", folder, "--data", "products.csv")
    frame.with_columns(pl.col("id").cast(pl.Float64)).write_parquet("products.parquet")
    tokenize("--tokenizer", folder, "--data", "products.parquet")
    assert len(read_journal(folder)) == 1 and "7" in ids_of(folder) and "7.0" not in ids_of(folder)


@pytest.mark.parametrize("moment", ["compute", "save", "journal", "exchange"])
def test_the_same_command_goes_on_after_a_stop(workplace, moment, monkeypatch):
    folder = workplace / "recbase_recommender"
    write("products.csv", [*ITEMS[:4], *new_items("a", "b")])
    whole = shutil.copytree(folder, workplace / "whole")
    tokenize("--tokenizer", whole, "--data", "products.csv")
    before = contents(folder)

    class Stop(BaseException):
        pass

    def stop(*_, **__):
        raise Stop

    places = {
        "compute": (UniversalItemTokenizer, "compute_codes"),
        "save": (StoredMemory, "save"),
        "journal": (module, "write_journal"),
        "exchange": ("tokenization_items.files", "_exchange"),
    }
    with monkeypatch.context() as patch:
        place, name = places[moment]
        patch.setattr(
            f"{place}.{name}" if isinstance(place, str) else place,
            *(stop,) if isinstance(place, str) else (name, stop),
        )
        with pytest.raises(Stop):
            tokenize("--tokenizer", folder, "--data", "products.csv")
    assert contents(folder) == before
    tokenize("--tokenizer", folder, "--data", "products.csv")
    assert ids_of(folder) == ids_of(whole) and len(read_journal(folder)) == 1
    for name in (MEMORY_NAME, "item_provenance.safetensors"):
        one, other = load_file(folder / name), load_file(whole / name)
        assert all((one[key] == other[key]).all() for key in other)
    assert {*contents(folder)} == {*contents(whole)} and not [
        name for name in os.listdir(workplace) if "unfinished" in name
    ]


def test_the_quick_starts_folder(workplace):
    """Its own encoder of words gives new products semantic IDs and content; rules lose what is gone."""
    colours = ["red", "blue", "green", "black"]
    rows = [{"sku": f"s{row}", "name": f"{colours[row % 4]} pen of {colours[row % 3]} steel"} for row in range(24)]
    pl.DataFrame(rows).write_csv("products.csv")
    bought = [
        {"who": f"c{user}", "sku": f"s{(user + 4 * step) % 24}", "when": step}
        for user in range(30)
        for step in range(5)
    ]
    shop = Recommender.from_interactions(bought, "products.csv")
    shop.save_pretrained("shop")
    path = workplace / "shop" / RECOMMENDER_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rules": {"deny": ["s3", "s5"], "allow": None}}))
    pl.DataFrame([*rows[4:], {"sku": "new", "name": "red cup of black steel"}]).write_csv("products.csv")
    tokenize("--tokenizer", "shop", "--data", "products.csv", "--remove_missing")
    loaded = Recommender.from_pretrained("shop")
    assert len(loaded.item_ids) == 21 and loaded.rules.deny == ("s5",) and loaded.memory.content.vectors[-1].any()
    assert loaded.recommend(["new"], top_k=5) and (workplace / "shop" / JOURNAL_NAME).is_file()
    assert loaded.add_items("products.csv").is_empty  # one way to read it


def test_what_is_written_is_what_python_writes(workplace):
    """Titles of products without any, and how many there are, are those of `Recommender.add_items`."""
    colours = ["red", "blue", "green", "black"]
    rows = [{"sku": f"s{row}", "about": f"{colours[row % 4]} pen of {colours[row % 3]} steel"} for row in range(24)]
    bought = [
        {"who": f"c{user}", "sku": f"s{(user + 4 * step) % 24}", "when": step}
        for user in range(30)
        for step in range(5)
    ]
    pl.DataFrame(rows).write_csv("products.csv")
    Recommender.from_interactions(bought, "products.csv").save_pretrained("shop")
    pl.DataFrame([*rows, {"sku": "new", "about": "red cup of black steel"}]).write_csv("products.csv")
    other = Recommender.from_pretrained("shop")
    other.add_items("products.csv")
    tokenize("--tokenizer", "shop", "--data", "products.csv")
    loaded = Recommender.from_pretrained("shop")
    assert loaded.titles == other.titles and loaded.titles["new"] == "red cup of black steel"
    assert loaded.facts["items"] == other.facts["items"] == 25 and loaded.rules == other.rules
    assert all(torch.equal(one, other.memory.tensors()[name].to(one)) for name, one in loaded.memory.tensors().items())


def test_two_updates_at_a_time(workplace, monkeypatch):
    """The later one does not take back what the other has done while it ran."""
    folder, update_items = workplace / "recbase_recommender", UniversalItemTokenizer.update_items
    write("products.csv", new_items("a"))
    write("others.csv", new_items("b"))

    def meanwhile(*given, **arguments):
        monkeypatch.setattr(UniversalItemTokenizer, "update_items", update_items)
        tokenize("--tokenizer", folder, "--data", workplace / "others.csv")
        return update_items(*given, **arguments)

    monkeypatch.setattr(UniversalItemTokenizer, "update_items", meanwhile)
    with pytest.raises(SystemExit, match="was changed by another program meanwhile"):
        tokenize("--tokenizer", folder, "--data", workplace / "products.csv")
    assert "b" in ids_of(folder) and "a" not in ids_of(folder) and len(read_journal(folder)) == 1
    tokenize("--tokenizer", folder, "--data", workplace / "products.csv")
    assert {"a", "b"} <= ids_of(folder).keys() and len(read_journal(folder)) == 2
