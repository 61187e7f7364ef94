"""`utgrec quickstart` on small files with odd columns: readable from the first line to the lines that load it."""

import csv
import re

import numpy as np
import pytest
import yaml

from trainers import Recommender
from trainers.commands import run_command


@pytest.fixture
def files(tmp_path):
    """Orders in no order, twice in part, with a mark of UTF-8; products with semicolons and decimal commas."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(60):
        start = rng.integers(20)
        for step in range(rng.integers(3, 7)):
            rows.append([f"K{user}", f"A-{(start + 4 * step) % 20}", f"{1 + step:02}.02.2024 10:00", "web"])
    rows += rows[:5]
    rng.shuffle(rows)
    with open(tmp_path / "verkauf.csv", "w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows(
            [["Kunde", "Artikel", "Bestellt am", "Kanal"], *rows, ["K1", "A-99", "01.02.2024 10:00", ""]]
        )
    with open(tmp_path / "ware.csv", "w", encoding="cp1252", newline="") as file:
        names = [[f"A-{row}", f"Stift {row % 4} grün {row}" if row else "", f"{row},50"] for row in range(22)]
        csv.writer(file, delimiter=";").writerows([["Artikel", "Bezeichnung", "Preis"], *names, names[3]])
    return tmp_path


def test_from_the_first_line_to_the_last(files, capsys):
    out = files / "out"
    run_command("quickstart", [str(files / "verkauf.csv"), str(files / "ware.csv"), "--output_dir", str(out)])
    shown = capsys.readouterr().out
    for line in (
        "verkauf.csv: ",
        "user      Kunde",
        "item      Artikel",
        "time      Bestellt am",
        "not used  Kanal",
        "id        Artikel",
        "title     Bezeichnung",
        "price     Preis",
        "5 interactions: the same user, item and time again",
        "1 interactions: its item is not among the items\n    user 'K1', item 'A-99'\n",
        "1 items: item_id is there already",
        "2 items without any order stay",
        "popularity",
        "item-transitions",
        "linear",
        "NDCG@10",
        "Customer K",
        "from trainers import Recommender",
    ):
        assert line in shown, line
    assert "{'" not in shown  # no dictionary for people to read
    assert len(re.findall(r"^Customer K", shown, re.MULTILINE)) == 3
    assert len(re.findall(r"^  [1-5]\. A-\d+", shown, re.MULTILINE)) == 15
    # the lines that it ends with
    call = next(line for line in shown.splitlines() if "from_pretrained(" in line).strip()
    found = eval(call, {"Recommender": Recommender})  # noqa: S307
    assert len(found) == 5 and found[0]["title"]
    assert yaml.safe_load((out / "run.yaml").read_text())["orders"] == str(files / "verkauf.csv")
    with pytest.raises(SystemExit, match="is there already: give another --output_dir, or --overwrite"):
        run_command("quickstart", [str(files / "verkauf.csv"), "--output_dir", str(out)])
    # what is published names no customer
    assert not any("K1" in path.read_text(encoding="utf-8") for path in (*out.glob("*.json"), *out.glob("*.md")))
    run_command("quickstart", [str(files / "verkauf.csv"), "--output_dir", str(out), "--overwrite"])
    assert Recommender.from_pretrained(out).titles["A-1"] == ""
    with pytest.raises(SystemExit, match="so this did not make it"):
        run_command("quickstart", [str(files / "verkauf.csv"), "--output_dir", str(files), "--overwrite"])


def test_without_products_and_with_columns_named(files, capsys):
    flags = ["--columns", "user=Kunde", "item=Artikel", "time=-", "--output_dir", str(files / "out")]
    run_command("quickstart", [str(files / "verkauf.csv"), *flags])
    shown = capsys.readouterr().out
    assert "no column of times: the rows are in their order" in shown and "not used  Bestellt am, Kanal" in shown
    assert Recommender.from_pretrained(files / "out").recommend(["A-1"], top_k=1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["verkauf.csv", "--columns", "user=Kundin"], "has no column 'Kundin'; it has 'Kunde', 'Artikel'"),
        (["verkauf.csv", "--columns", "wer=Kunde"], "expected role=column"),
        (["nichts.csv"], "nichts.csv: no such file"),
        (["verkauf.csv", "--minutes", "-1"], "--minutes is a time"),
        (["verkauf.csv", "ware.csv", "--columns", "item=Kanal"], "No order is of one of the products"),
    ],
)
def test_errors_say_what_and_how(files, flags, message, monkeypatch):
    monkeypatch.chdir(files)
    with pytest.raises(SystemExit) as error:
        run_command("quickstart", flags)
    assert message in str(error.value)
    assert not (files / "runs").exists()


def test_a_folder_that_takes_no_files_is_known_before_the_work(files, monkeypatch):
    monkeypatch.setattr(Recommender, "from_interactions", None)
    with pytest.raises(SystemExit, match="No files can be written to .*out"):
        run_command("quickstart", [str(files / "verkauf.csv"), "--output_dir", str(files / "verkauf.csv" / "out")])


def test_an_encoder_that_cannot_be_published_is_known_before_the_work(files, monkeypatch):
    monkeypatch.setattr(Recommender, "from_interactions", None)
    flags = ["--text_encoder", str(files), "--push_to_hub", "org/shop", "--output_dir", str(files / "out")]
    with pytest.raises(SystemExit, match="is on this machine alone"):
        run_command("quickstart", [str(files / "verkauf.csv"), *flags])
