"""The quality table on a tiny domain: lines for each run, none run twice, and the table."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import TrainerCallback

from trainers.arguments import parse_sections
from trainers.methods import runs, sequential
from trainers.methods.memory_selection import TREND_WEIGHTS
from trainers.methods.utgrec import SECTIONS

BENCHMARKS = Path(__file__).resolve().parents[3] / "examples" / "benchmarks"


@pytest.fixture
def domain(tmp_path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    items = [{"item_id": f"i{row}", "title": f"item {row}"} for row in range(12)]
    rng = np.random.default_rng(0)
    users = [{"user_id": f"u{user}", "items": [f"i{(start + step) % 12}" for step in range(6)]}
             for user, start in enumerate(rng.integers(0, 12, 20))]  # fmt: skip
    for name, rows in (("items", items), ("sequences", users)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def quality(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield runpy.run_path(str(BENCHMARKS / "quality.py"))
    forget()


def forget() -> None:
    for name in ("ablations", "recipes", "sequential_rows"):
        sys.modules.pop(name, None)


def run(monkeypatch, capsys, *argv) -> str:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", ["quality.py", *map(str, argv)])
    try:
        runpy.run_path(str(BENCHMARKS / "quality.py"), run_name="__main__")
    finally:
        forget()
    return capsys.readouterr().out


def flags_of(domain, tmp_path) -> list:
    flags = ["--domains", domain, "--results", tmp_path / "quality.jsonl", "--work_dir", tmp_path / "work"]
    return [*flags, "--text_encoder", "tf-idf", "--minutes", "0.02"]


def read(tmp_path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "quality.jsonl").read_text().splitlines()]


def test_lines_and_tables(domain, tmp_path, monkeypatch, capsys, quality):
    results, flags = tmp_path / "quality.jsonl", flags_of(domain, tmp_path)
    encoder = ("--image_encoder", tmp_path / "resnet")
    run(monkeypatch, capsys, *flags, *encoder, "--models", "popularity", "sasrec", "--seeds", "0", "1")
    lines = read(tmp_path)
    runs = [(line["model"], line["seed"], line["minutes"], line["mask_seen"]) for line in lines]
    # a floor has no seeds, no training whose time is limited, and no memory
    trained = [(f"sasrec{end}", seed, 0.02) for seed in (0, 1) for end in ("", " with memory")]
    assert runs == [(*each, seen) for each in (("popularity", 0, None), *trained) for seen in (False, True)]
    for line in lines:
        assert quality["lacking"](line) == []
        assert line["domain"] == "tiny" and 0 <= line["recall@5"] <= line["recall@10"] <= 1
        assert line["validation"].keys() >= {"recall@10", "ndcg@10"} and len(line["intervals"]["ndcg@10"]) == 2
        assert str(tmp_path) not in line["command"] and line["device"] and line["versions"]["torch"]
        assert "--text_encoder tf-idf" in line["command"] and line["command"].endswith("--image_encoder resnet")
        assert sum(each["num_cases"] for each in line["seen_transitions"]) == line["num_cases"]
        assert 0 <= line["processor_seconds"] and (line["memory"] is None) == ("memory" not in line["model"])
    assert lines[2]["parameters"] > 0 and lines[0]["parameters"] == 0

    before = results.read_text()
    more = ("--models", "sasrec", "item-transitions", "linear", "memory", "--seeds", "0", "1")
    shown = run(monkeypatch, capsys, *flags, *more)
    assert shown.count("done before") == 2 and results.read_text().startswith(before)
    lines = read(tmp_path)
    assert len(lines) == 16 and [line["model"] for line in lines[12:]] == ["linear"] * 2 + ["memory"] * 2
    assert lines[12]["against_linear"] is None and lines[14]["memory"]["settings"]["mixing_weight"] == 1.0
    assert {row["trend_weight"] for row in lines[14]["memory"]["trend_weight_selection"]} == {*TREND_WEIGHTS}
    assert lines[4]["memory"]["trend_weight_selection"] == lines[14]["memory"]["trend_weight_selection"]
    results.write_text("".join(json.dumps(line) + "\n" for line in lines[:4]))  # a run that ended between the two
    run(monkeypatch, capsys, *flags, *encoder, "--models", "sasrec")
    timed = {"train_seconds", "processor_seconds"}
    for before, after in zip(lines[4:6], read(tmp_path)[4:], strict=True):
        assert {k: v for k, v in before.items() if k not in timed} == {
            k: v for k, v in after.items() if k not in timed
        }
    results.write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = run(monkeypatch, capsys, "--table_only", "--results", results)
    assert "### tiny, last 20 items, at most 0.02 minutes of training" in table and table.count("###") == 1
    assert "| item-transitions | counted from the training part | 1 |" in table
    for line in lines[14:]:  # as where items have brands
        line["model"] = "memory and brands"
    results.write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = run(monkeypatch, capsys, "--table_only", "--results", results)
    assert table.count("###") == 1 and table.count("| memory and brands |") == 1, (
        "a floor is in each table, and makes none"
    )
    assert "| sasrec | 64 wide, 2 layers, dropout 0.5, loss ce, 0.05 M parameters | 2 |" in table


def test_a_run_that_was_stopped_goes_on(domain, tmp_path, monkeypatch, capsys):
    class Kill(TrainerCallback):
        def on_epoch_begin(self, args, state, control, **_):
            if state.epoch >= 2:
                raise KeyboardInterrupt

    rng = np.random.default_rng(0)  # more items than a level has codes, of texts that differ
    words = [f"{first}{second}a" for first in "bdfgklmn" for second in "aeiou"]
    titles = (" ".join(rng.choice(words, 3)) for _ in range(300))
    items = [{"item_id": f"i{row}", "title": title} for row, title in enumerate(titles)]
    users = [{"user_id": f"u{user}", "items": [f"i{each}" for each in rng.choice(300, 6)]} for user in range(50)]
    for name, rows in (("items", items), ("sequences", users)):
        (domain / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = {}
    for kind in ("whole", "stopped"):
        (tmp_path / kind).mkdir()
        flags = ["--domains", domain, "--results", tmp_path / kind / "quality.jsonl", "--work_dir", tmp_path / kind]
        flags += ["--text_encoder", "tf-idf", "--patience", "2", "--models", "sasrec", "rq-kmeans"]
        flags += ["--recommender.num_train_epochs", "3"]
        if kind == "stopped":
            for module in (sequential, runs):
                with monkeypatch.context() as patched:
                    stopping = runs.stopping
                    patched.setattr(module, "stopping", lambda *given, _of=stopping: [*_of(*given), Kill()])
                    with pytest.raises(KeyboardInterrupt):
                        run(monkeypatch, capsys, *flags, "--resume")
        run(monkeypatch, capsys, *flags, "--resume")
        lines[kind] = read(tmp_path / kind)
    for before, after in zip(lines["whole"], lines["stopped"], strict=True):
        assert after["train_seconds"] > after["details"].pop("resumed_after_seconds") > 0
        assert "resumed_after_seconds" not in before["details"] and "--resume" not in after["command"]
        timed = {"train_seconds", "processor_seconds"}
        assert all(before[name] == after[name] for name in before.keys() - timed)


def test_memories_that_know_brands_are_other_rows(domain, tmp_path, monkeypatch, capsys):
    flags = flags_of(domain, tmp_path)
    run(monkeypatch, capsys, *flags, "--models", "memory")
    assert [line["model"] for line in read(tmp_path)] == ["memory"] * 2, "there are no brands"
    (tmp_path / "quality.jsonl").unlink()
    rows = [json.loads(line) for line in (domain / "items.jsonl").read_text().splitlines()]
    for place, row in enumerate(rows):
        row["brand"] = f"maker {place % 4}"
    (domain / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(monkeypatch, capsys, *flags, "--models", "memory", "sasrec", "--no_brands")
    shown = run(monkeypatch, capsys, *flags, "--models", "memory", "sasrec")
    assert shown.count("done before") == 1  # SASRec is not trained again
    lines = read(tmp_path)[::2]
    names = ["memory", "sasrec", "sasrec with memory", "memory and brands", "sasrec with memory and brands"]
    assert [line["model"] for line in lines] == names
    assert "brand_weight_selection" in lines[3]["memory"] and "brand_weight_selection" not in lines[2]["memory"]
    for place, words in ((0, "memory --seeds 0 --no_brands"), (2, "sasrec --seeds 0 --no_brands")):
        assert f"--models {words}" in lines[place]["command"]
    assert not any("brands" in line["command"] for line in lines[3:])


def test_the_comparison_with_the_linear_ranker_is_of_the_same_users(domain, tmp_path, monkeypatch, capsys):
    run(monkeypatch, capsys, *flags_of(domain, tmp_path), "--models", "linear", "popularity")
    linear, popularity = (
        [line for line in read(tmp_path) if line["model"] == name] for name in ("linear", "popularity")
    )
    for ours, theirs, seen in zip(popularity, linear, ("kept", "masked"), strict=True):
        for metric in ("recall@10", "ndcg@10"):
            test = ours["against_linear"][metric]
            assert test["difference"] == pytest.approx(ours[metric] - theirs[metric])
            assert test["low"] <= test["difference"] <= test["high"] and 0 < test["p_value"] <= 1
        stored = np.load(tmp_path / "work" / "tiny" / "ranks" / f"popularity-history-20-seed-0-{seen}.npz")
        assert (stored["ranks"] >= 0).mean() == pytest.approx(ours["recall@20"]) and len(stored["users"]) == 20
    # without its line, too, and by the same ranks
    (tmp_path / "quality.jsonl").unlink()
    for file in (tmp_path / "work" / "tiny" / "ranks").glob("linear-*"):
        file.unlink()
    run(monkeypatch, capsys, *flags_of(domain, tmp_path), "--models", "popularity")
    assert [line["against_linear"] for line in read(tmp_path)] == [line["against_linear"] for line in popularity]


def test_another_dropout_and_another_history_are_other_rows(domain, tmp_path, monkeypatch, capsys):
    flags = flags_of(domain, tmp_path)
    models = ["--models", "hstu", "popularity", "--no_memory"]
    for more in (
        models,
        [*models[:3], "item-transitions", *models[3:], "--dropout", "0.25"],
        [*models[:2], "--no_memory", "--max_history", "3"],
        [*models[:2], "--no_memory", "--dropout", "0.25", "--batch_size", "16"],
    ):
        run(monkeypatch, capsys, *flags, *more)
    lines = read(tmp_path)[::2]
    names = ["hstu", "popularity", "hstu-dropout-0.25", "item-transitions", "hstu", "hstu-dropout-0.25-batch-size-16"]
    assert [line["model"] for line in lines] == names
    assert lines[2]["architecture"]["hidden_dropout"] == lines[2]["architecture"]["attention_dropout"] == 0.25
    assert lines[2]["command"].endswith("--dropout 0.25 --text_encoder tf-idf")
    assert "dropout" not in lines[0]["command"] + lines[3]["command"] and lines[0]["ndcg@10"] != lines[2]["ndcg@10"]
    assert lines[5]["details"]["batch_size"] == 16 and lines[0]["details"]["batch_size"] == 128
    assert "--models hstu --seeds" in lines[5]["command"]
    assert lines[5]["command"].endswith("--dropout 0.25 --batch_size 16 --text_encoder tf-idf")
    assert [line["history"] for line in lines] == [20] * 4 + [3, 20] and lines[4]["architecture"]["max_history"] == 3
    assert lines[4]["max_history"] == 3 and "--max_history 3 --minutes 0.02" in lines[4]["command"]
    for flag, value in (("--dropout", "1"), ("--max_history", "0"), ("--minutes", "0"), ("--batch_size", "0")):
        with pytest.raises(SystemExit, match=flag):
            run(monkeypatch, capsys, *flags, flag, value)


@pytest.mark.parametrize("name", ["bsarec-recboard", "hstu-recboard", "sasrec-recboard", "sasrec-horizon-10"])
def test_rows_with_other_settings(domain, tmp_path, monkeypatch, capsys, name):
    flags = ("--max_history", "50", "--no_memory", "--dropout", "0.75", "--batch_size", "7", "--models", name)
    run(monkeypatch, capsys, *flags_of(domain, tmp_path), *flags)
    plain = read(tmp_path)[0]
    assert plain["model"] == name and "--dropout" not in plain["command"] + str(plain["details"]["batch_size"])
    assert plain["details"]["batch_size"] != 7 and plain["architecture"]["hidden_dropout"] != 0.75
    line = read(tmp_path)[0]
    differences = line["differs_from_published"]
    assert line["architecture"]["max_history"] == 50
    assert line["training"]["horizon"] == (10 if name == "sasrec-horizon-10" else 1)
    if name != "sasrec-horizon-10":  # what differs is only what a run here cannot have
        cannot = {"optim", "linear_initialization", "negatives_of", "time_buckets"}
        assert differences.keys() <= cannot and "RecBoard" in line["published_in"]
    if name == "hstu-recboard":
        assert line["losses"] == {
            "loss": "sampled", "num_negatives": 512, "log_q_correction": False, "temperature": 0.1,
        }  # fmt: skip


def test_every_line_of_the_results_is_complete(quality):
    lines = quality["read_lines"](BENCHMARKS / "results" / "quality.jsonl")
    for line in lines:
        assert quality["lacking"](line) == [], line["model"]
        for each in line["differs_from_published"].values() if line["parameters"] else ():
            assert each["here"] != each["published"]
    runs = [tuple(line[key] for key in (*quality["RUN"], "mask_seen")) for line in lines]
    assert len(set(runs)) == len(runs)


def test_lines_that_lack_something_are_neither_written_nor_shown(quality, domain, tmp_path, monkeypatch, capsys):
    run(monkeypatch, capsys, *flags_of(domain, tmp_path), "--models", "popularity")
    line = read(tmp_path)[0]
    for name in ("validation", "seen_transitions", "versions", "against_linear", "command"):
        assert quality["lacking"]({key: value for key, value in line.items() if key != name}) == [name]
    assert quality["lacking"](line | {"parameters": 3}) == list(quality["DESCRIBED"])
    assert quality["lacking"](line | {"model": "tiger with memory"}) == ["memory"]
    assert quality["lacking"](line | {"against_linear": None}) == ["against_linear"]
    with pytest.raises(ValueError, match="popularity lacks intervals: nothing was written"):
        quality["append"](tmp_path / "none", [line, {key: line[key] for key in line if key != "intervals"}])
    assert not (tmp_path / "none").exists()
    archive = BENCHMARKS / "results" / "quality_archive.jsonl"
    shown = run(monkeypatch, capsys, "--table_only", "--results", archive)
    assert shown.startswith(f"{len(archive.read_text().splitlines())} lines are left out: they lack ")


def test_every_archived_line_says_what_it_is():
    archive = BENCHMARKS / "results" / "quality_archive.jsonl"
    lines = [json.loads(line) for line in archive.read_text().splitlines()]
    for line in lines:
        assert line["variant"], line["model"]
        if not line["parameters"]:
            continue
        assert line["architecture"]["parameters"] == line["parameters"]
        assert line["losses"] and line["training"] and line["differs_from_published"] and line["published_in"]
        if "codebooks" in line:
            shared = line["details"]["items_sharing_codes"]
            assert shared is not None or line["details"]["items_sharing_codes_note"] == "not recorded"
    tiger = next(line for line in lines if line["model"] == "tiger")["differs_from_published"]
    assert tiger["recommender.d_model"] == {"here": 64, "published": 128}
    assert {"recommender.causal_encoder", "recommender.normalize_over", "tokenizer.num_train_epochs"} <= tiger.keys()


def test_unknown_model(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="unknown sasrek"):
        run(monkeypatch, capsys, "--models", "sasrek", "--results", tmp_path / "none")


def test_the_papers_configuration_is_read_with_its_fields(domain, quality):
    argv = ["--config", "paper", "--tokenizer.use_cpu", "--recommender.use_cpu", "--domains", str(domain)]
    arguments = parse_sections(quality["QualityArguments"], SECTIONS, "", argv)[0]
    assert arguments.text_fields == ["title", "features", "categories"]
