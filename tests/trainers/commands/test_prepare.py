"""The script from a command line to a folder that the trainers read, for each kind of source."""

import json
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Literal

import pytest

from tokenization_items.catalogue import Catalogue
from trainers.arguments import parse_sections
from trainers.commands import run_command
from trainers.commands.prepare import documented, fields_of, make_reader, source_arguments
from trainers.data.interactions import Interactions
from trainers.data.readers import READERS

NUM_USERS, NUM_ITEMS = 6, 5
EVENTS = [(user, item, 1_600_000_000 + 7 * item - user) for user in range(NUM_USERS) for item in range(NUM_ITEMS)]


@pytest.fixture
def run():
    def call(*argv):
        run_command("prepare", list(map(str, argv)))

    return call


def lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def sources(tmp_path):
    """Format → the flags that read it; the same users and items in each."""
    folder = tmp_path / "sources"
    folder.mkdir()
    reviews = [{"reviewerID": f"u{u}", "asin": str(i), "unixReviewTime": t, "overall": 5.0} for u, i, t in EVENTS]
    new = [{"user_id": f"u{u}", "parent_asin": str(i), "timestamp": t * 1000, "rating": 5.0} for u, i, t in EVENTS]
    old_items = [{"asin": str(i), "title": f"Item {i}"} for i in range(NUM_ITEMS)]
    new_items = [{"parent_asin": str(i), "title": f"Item {i}", "images": []} for i in range(NUM_ITEMS)]
    lines(folder / "reviews.json", reviews)
    lines(folder / "meta.json", old_items)
    lines(folder / "new.jsonl", new)
    lines(folder / "meta_new.jsonl", new_items)

    (folder / "ml").mkdir()
    (folder / "ml" / "ratings.dat").write_text("".join(f"u{u}::{i}::5::{t}\n" for u, i, t in EVENTS))
    (folder / "ml" / "movies.dat").write_text("".join(f"{i}::Item {i}::Drama\n" for i in range(NUM_ITEMS)))

    (folder / "recbole").mkdir()
    header = "user_id:token\titem_id:token\ttimestamp:float\n"
    (folder / "recbole" / "x.inter").write_text(header + "".join(f"u{u}\t{i}\t{t}\n" for u, i, t in EVENTS))
    items = "item_id:token\ttitle:token_seq\n" + "".join(f"{i}\tItem {i}\n" for i in range(NUM_ITEMS))
    (folder / "recbole" / "x.item").write_text(items)

    sequences = {f"u{user}": list(range(NUM_ITEMS)) for user in range(NUM_USERS)}
    item_json = {str(i): {"title": f"Item {i}"} for i in range(NUM_ITEMS)}
    (folder / "letter").mkdir()
    (folder / "letter" / "x.inter.json").write_text(json.dumps(sequences))
    (folder / "letter" / "x.item.json").write_text(json.dumps(item_json))

    (folder / "mini").mkdir()
    header = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
    for part, history, target in (("train", "0 1", 2), ("valid", "0 1 2", 3), ("test", "0 1 2 3", 4)):
        rows = "".join(f"u{user}\t{history}\t{target}\n" for user in range(NUM_USERS))
        (folder / "mini" / f"x.{part}.inter").write_text(header + rows)
    (folder / "mini" / "x.item.json").write_text(json.dumps(item_json))

    (folder / "utgrec").mkdir()
    names = {user: [str(item) for item in items] for user, items in sequences.items()}
    (folder / "utgrec" / "all_item_seqs.json").write_text(json.dumps(names))
    mapping = {"id2item": ["[PAD]", *map(str, range(NUM_ITEMS))]}
    (folder / "utgrec" / "id_mapping.json").write_text(json.dumps(mapping))
    sentences = {str(i): f"Item {i}" for i in range(NUM_ITEMS)}
    (folder / "utgrec" / "metadata.sentence.json").write_text(json.dumps(sentences))

    (folder / "log.csv").write_text("buyer,sku,when\n" + "".join(f"u{u},{i},{t}\n" for u, i, t in EVENTS))
    (folder / "goods.csv").write_text("sku,title\n" + "".join(f"{i},Item {i}\n" for i in range(NUM_ITEMS)))
    columns = ["--columns", "user_id=buyer", "item_id=sku", "timestamp=when", "--item_columns", "item_id=sku"]
    old = ["--interactions", folder / "reviews.json", "--items", folder / "meta.json"]
    return {
        "amazon-2014": old,
        "amazon-2018": old,
        "amazon-2023": ["--interactions", folder / "new.jsonl", "--items", folder / "meta_new.jsonl"],
        "movielens": ["--input", folder / "ml"],
        "recbole": ["--input", folder / "recbole"],
        "letter": ["--input", folder / "letter", "--name", "x"],
        "minionerec": ["--input", folder / "mini"],
        "utgrec": ["--input", folder / "utgrec"],
        "tabular": ["--interactions", folder / "log.csv", "--items", folder / "goods.csv", *columns],
    }


FORMATS = "amazon-2014 amazon-2018 amazon-2023 movielens recbole letter minionerec utgrec tabular".split()


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_gives_the_same_data(run, sources, tmp_path, kind, capsys):
    out = tmp_path / "out"
    run("--format", kind, *sources[kind], "--output_dir", out, "--co_occurrence")
    catalogue = Catalogue.from_folder(out)
    assert catalogue.item_ids == [str(item) for item in range(NUM_ITEMS)]
    assert [text.partition(".")[0] for text in catalogue.texts] == [f"Item {item}" for item in range(NUM_ITEMS)]
    interactions = Interactions.from_folder(out, catalogue.item_ids)
    assert interactions.user_ids == [f"u{user}" for user in range(NUM_USERS)]
    assert all(interactions.sequence(user).tolist() == list(range(NUM_ITEMS)) for user in range(NUM_USERS))
    document = json.loads((out / "prepared.json").read_text())
    assert document["source"]["format"] == kind
    has_time = kind in ("amazon-2014", "amazon-2018", "amazon-2023", "movielens", "recbole", "tabular")
    assert document["choices"]["timestamp_unit"].startswith("microseconds" if has_time else "place")
    shown = capsys.readouterr().out
    assert "read 30 interactions" in shown and "users: 6" in shown and f"{out}: written" in shown
    run("--check", "--output_dir", out)
    (out / "items.parquet").write_bytes(b"")
    with pytest.raises(SystemExit, match="items.parquet differ"):
        run("--check", "--output_dir", out)


def test_flags_reach_the_preparation(run, sources, tmp_path):
    out = tmp_path / "out"
    flags = "--k_core 2 --repeats all --min_rating 3 --split ratio --ratios 0.6 0.2 0.2 --text_fields title features"
    command = ["--format", "amazon-2018", *sources["amazon-2018"], "--output_dir", out, *flags.split()]
    run(*command, "--latest_time", "2021-01-01")
    choices = json.loads((out / "prepared.json").read_text())["choices"]
    for name, value in {
        "k_core": 2,
        "repeats": "all",
        "min_rating": 3.0,
        "split": "ratio",
        "ratios": [0.6, 0.2, 0.2],
        "text_fields": ["title", "features"],
        "latest_time": "2021-01-01T00:00:00",
        "download_images": False,
        "co_occurrence": False,
    }.items():
        assert choices[name] == value
    with pytest.raises(SystemExit, match="not empty"):
        run(*command)
    run(*command, "--overwrite")
    with pytest.raises(SystemExit, match="No interaction is left"):
        run(*command, "--overwrite", "--latest_time", "2019-01-01")
    assert (out / "prepared.json").exists()


def test_a_dry_run_writes_nothing(run, sources, tmp_path, capsys):
    run("--format", "amazon-2023", *sources["amazon-2023"], "--output_dir", tmp_path / "out", "--dry_run")
    shown = capsys.readouterr().out
    assert "new.jsonl" in shown and "30 lines" in shown and "GB are free" in shown and "parent_asin" in shown
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "argv, word",
    [
        ([], "--format says"),
        (["--format", "movielens"], "needs --input"),
        (["--format", "amazon-2023", "--interactions", "x"], "needs --items"),
        (["--format", "amazon-2023-hub"], "needs --category"),
        (["--format", "movielens", "--input", "x", "--items", "y"], "does not use --items"),
        (["--format", "letter", "--input", "x", "--columns", "user_id=u"], "does not use --columns"),
        (["--format", "letter", "--input", "x", "--timestamp_unit", "ms"], "does not use --timestamp_unit"),
        (["--format", "tabular", "--interactions", "x", "--columns", "user_id"], "ours=theirs"),
        (["--format", "tabular", "--interactions", "absent.csv"], "absent.csv: no such file"),
        (["--format", "tabular", "--interactions", "absent.csv", "--ratios", "1", "1", "1"], "ratios"),
        (["--format", "letter", "--input", "x", "--latest_time", "soon"], "--latest_time is an ISO date"),
        (["--format", "letter", "--input", "x", "--latest_time", "soon", "--dry_run"], "--latest_time is an ISO date"),
        (["--format", "tabular", "--interactions", "x", "--ratios", "1", "1", "1", "--dry_run"], "ratios"),
        (["--check"], "no prepared data folder"),
        (["--engine", "spark"], "there are local and ray"),
        (["--partitions", "3"], "--partitions is one of --engine ray"),
        (["--engine", "ray", "--partitions", "0"], "must be 1 or more"),
        (["--engine", "ray", "--format", "letter", "--input", "x"], "reads --format tabular, got letter"),
        (["--engine", "ray", "--format", "tabular", "--interactions", "absent"], "absent: no such file"),
    ],
)
def test_wrong_command_lines_say_what_is_wrong(run, tmp_path, argv, word):
    with pytest.raises(SystemExit, match=word):
        run(*argv, "--output_dir", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@dataclass
class ShopReader:
    """
    A reader that was added.

    Args:
        input (`Path`): the folder of
            a shop.
        currency (`str`, *optional*, defaults to `"EUR"`): of the prices.
        columns (`dict[str, str]`, *optional*): its columns.
    """

    input: Path
    currency: Literal["EUR", "USD"] = "EUR"
    columns: dict[str, str] = field(default_factory=dict)


def test_a_reader_is_one_entry(monkeypatch):
    """The fields of its dataclass are the flags, what its docstring says is their help, and nothing else is told."""
    monkeypatch.setitem(READERS, "shop", ShopReader)
    monkeypatch.setitem(READERS, "shop-usd", partial(ShopReader, currency="USD"))
    flags = source_arguments()
    helps = {each.name: each.metadata["help"].splitlines() for each in fields(flags)}
    assert "shop, shop-usd: The folder of a shop." in helps["input"]
    assert helps["currency"] == ["shop: Of the prices. (default: EUR)"]

    def read(*argv):
        return make_reader(*parse_sections(flags, {}, "", argv))

    assert read("--format", "shop", "--input", "x", "--columns", "item_id=sku") == (
        ShopReader(Path("x"), columns={"item_id": "sku"})
    )
    assert read("--format", "shop", "--input", "x", "--currency", "USD") == ShopReader(Path("x"), "USD")
    assert read("--format", "shop-usd", "--input", "x") == ShopReader(Path("x"), "USD")
    with pytest.raises(SystemExit, match="shop-usd does not use --currency"):
        read("--format", "shop-usd", "--input", "x", "--currency", "EUR")
    with pytest.raises(SystemExit, match="shop needs --input"):
        read("--format", "shop")


def test_every_field_of_a_reader_is_documented():
    for reader in READERS.values():
        cls, found, _ = fields_of(reader)
        assert found.keys() <= documented(cls).keys() and all(documented(cls).values())
