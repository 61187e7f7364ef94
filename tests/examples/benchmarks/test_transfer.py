"""The transfer benchmark on three tiny domains: lines of each start and share, none run twice, and the table."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from tokenization_items.item_embeddings import save_embeddings

BENCHMARKS = Path(__file__).resolve().parents[3] / "examples" / "benchmarks"
NUM_ITEMS, WIDTH = 40, 8
ENCODER = {"encoder": "made", "encoder_fingerprint": "a", "pooling": "mean"}


@pytest.fixture
def flags(tmp_path, monkeypatch) -> list:
    for number, name in enumerate(("a", "b", "c")):
        rng = np.random.default_rng(number)
        ids = [f"{name}{row}" for row in range(NUM_ITEMS)]
        (tmp_path / name).mkdir()
        items = [{"item_id": each, "title": f"item {each} of many"} for each in ids]
        users = [
            {"user_id": f"u{user}", "items": [ids[(start + step) % NUM_ITEMS] for step in range(7)]}
            for user, start in enumerate(rng.integers(0, NUM_ITEMS, 40))
        ]
        for file, rows in (("items", items), ("sequences", users)):
            (tmp_path / name / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        save_embeddings(tmp_path / f"{name}-texts", ids, rng.normal(size=(NUM_ITEMS, WIDTH)), ENCODER)
    monkeypatch.setattr(
        "trainers.methods.semantic_ids.rq_kmeans_tokenizer.__defaults__", (3, 12, 8, "digit", 0, False, "rq-kmeans")
    )
    flags = [
        "--domains",
        *(tmp_path / name for name in "abc"),
        "--embeddings",
        *(tmp_path / f"{n}-texts" for n in "abc"),
    ]
    flags += ["--targets", "c", "--results", tmp_path / "transfer.jsonl", "--work_dir", tmp_path / "work"]
    flags += ["--steps", 4, "--eval_steps", 2, "--pretraining_steps", 6, "--recommender.disable_tqdm", "true"]
    return [*flags, "--recommender.num_beams", 10]


def run(monkeypatch, capsys, *argv) -> str:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", ["transfer.py", *map(str, argv)])
    try:
        runpy.run_path(str(BENCHMARKS / "transfer.py"), run_name="__main__")
    finally:
        for name in ("quality", "ablations", "recipes", "sequential_rows"):
            sys.modules.pop(name, None)
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err, shown.err
    return shown.out


def test_lines_and_tables(flags, tmp_path, monkeypatch, capsys):
    shown = run(monkeypatch, capsys, *flags, "--train_users", 0.2, 1, "--seeds", 3, "--learning_rates", 0.005, 0.001)
    lines = [json.loads(line) for line in (tmp_path / "transfer.jsonl").read_text().splitlines()]
    kinds = ["linear", "memory"]
    for start in ("from scratch", "pre-trained"):
        kinds += [f"rq-kmeans-likeness-item-level, {start}{end}" for end in ("", " with memory")]
    found = [(line["train_users"], line["model"]) for line in lines]
    assert found == [(share, kind) for share in (0.2, 1.0) for kind in kinds]
    for line in lines:
        assert line["domain"] == "c" and line["num_cases"] == 40  # test users are those of all
        assert str(tmp_path) not in line["command"] and f"--train_users {line['train_users']:g}" in line["command"]
        assert sum(each["num_cases"] for each in line["seen_transitions"]) == 40
        if line["start"] == "pre-trained":
            assert line["sources"] == ["a", "b"] and line["details"]["pretraining_processor_seconds"] > 0
            assert line["against_scratch"]["ndcg@10"].keys() >= {"difference", "p_value"}
        if line["start"]:
            assert line["details"]["steps"] == 4 and line["details"]["learning_rate"] in (0.005, 0.001)
    few, every = ([line for line in lines if line["train_users"] == share] for share in (0.2, 1.0))
    assert few[0]["seed"] == 3 and every[0]["seed"] == 0  # which users there are goes by the seed
    assert few[0]["ndcg@10"] != every[0]["ndcg@10"]
    assert "### c, 20% of the users" in shown and "### c, 100% of the users" in shown
    pre = tmp_path / "work" / "c" / "rq-kmeans-likeness-steps-6-seed-3"
    assert sorted(each.name for each in (pre / "items").iterdir()) == ["a", "b", "c"]
    again = run(monkeypatch, capsys, *flags, "--train_users", 0.2, 1, "--seeds", 3, "--learning_rates", 0.005, 0.001)
    assert "done before" in again and len((tmp_path / "transfer.jsonl").read_text().splitlines()) == len(lines)
    # what is there is taken by a run that has its lines elsewhere
    before = (pre / "recommender" / "model.safetensors").stat().st_mtime_ns
    other = [*flags, "--results", tmp_path / "other.jsonl", "--no_memory", "--train_users", 0.2, "--seeds", 3]
    run(monkeypatch, capsys, *other)
    assert len((tmp_path / "other.jsonl").read_text().splitlines()) == 3
    assert (pre / "recommender" / "model.safetensors").stat().st_mtime_ns == before
    # and not by one that has other domains or settings
    few = ["--domains", tmp_path / "a", tmp_path / "c", "--embeddings", tmp_path / "a-texts", tmp_path / "c-texts"]
    texts = ["--embeddings", tmp_path / "b-texts", tmp_path / "b-texts", tmp_path / "c-texts"]
    for changed, said in ((few, "with domains"), (["--max_history", 7], "with training"), (texts, "with texts")):
        with pytest.raises(SystemExit, match=f"{pre.name} was pre-trained {said}.*: delete"):
            run(monkeypatch, capsys, *other, *changed)
    facts = json.loads((pre / "pretraining.json").read_text())
    (pre / "pretraining.json").write_text(json.dumps({**facts, "made_with": None}))
    with pytest.raises(SystemExit, match="does not say what the pre-training was made with: delete"):
        run(monkeypatch, capsys, *other)
    (pre / "pretraining.json").write_text(json.dumps(facts))
    # semantic IDs that are there, and a tokenizer that has seen the target
    more = ["--train_users", 0.2, "--seeds", 3]
    run(monkeypatch, capsys, *flags, *more, "--codes", f"theirs={tmp_path}/work/{{target}}/{pre.name}")
    (tmp_path / "copied").mkdir()
    with pytest.raises(SystemExit, match="theirs-.* was pre-trained with codes"):
        run(monkeypatch, capsys, *flags, *more, "--codes", f"theirs={tmp_path}/copied")
    run(monkeypatch, capsys, *flags, *more, "--tokenizer_on", "all", "--centre_domains", "true")
    size = ["--recommender.d_model", 8, "--recommender.d_kv", 4, "--recommender.num_heads", 2, "--no_memory"]
    run(monkeypatch, capsys, *flags, *more, "--network", "t5", *size, "--num_levels", 2, "--codebook_size", 13)
    line = json.loads((tmp_path / "transfer.jsonl").read_text().splitlines()[-1])
    assert line["model"] == "rq-kmeans-2x13-t5, pre-trained" and "codes 13+13" in line["variant"]
    run(monkeypatch, capsys, *flags, *more, "--network", "t5", *size)
    lines = [json.loads(line) for line in (tmp_path / "transfer.jsonl").read_text().splitlines()]
    assert {
        "theirs-likeness-item-level, pre-trained",
        "rq-kmeans-seen-centred-likeness-item-level, from scratch",
        "rq-kmeans-t5, from scratch",
    } <= {line["model"] for line in lines}
    assert lines[-1]["model"] == "rq-kmeans-t5, pre-trained" and lines[-1]["parameters"] == lines[-2]["parameters"]
    assert "--network t5" in lines[-1]["command"] and "d_model 8" in lines[-1]["command"]


def test_runs_of_other_lengths_are_neither_compared_nor_averaged(flags, tmp_path, monkeypatch, capsys):
    flags = [*flags, "--no_memory", "--train_users", 1, "--start_from_content", "false", "--learning_rates", 0.02]
    for steps, before in ((12, 6), (2, 6), (12, 8)):
        shown = run(monkeypatch, capsys, *flags, "--steps", steps, "--pretraining_steps", before)
    lines = [json.loads(line) for line in (tmp_path / "transfer.jsonl").read_text().splitlines()]
    assert [(line["start"], line.get("steps")) for line in lines[1:]] == [
        ("from scratch", 12),
        ("pre-trained", 12),
        ("from scratch", 2),
        ("pre-trained", 2),
        ("pre-trained", 12),
    ]
    scratch = {line["steps"]: line["ndcg@10"] for line in lines if line["start"] == "from scratch"}
    assert scratch[2] != scratch[12]
    for line in lines[1:]:
        if line["start"] == "pre-trained":
            difference = line["ndcg@10"] - scratch[line["steps"]]
            assert line["against_scratch"]["ndcg@10"]["difference"] == pytest.approx(difference)
        assert line["against_linear"]["ndcg@10"]["difference"] == pytest.approx(line["ndcg@10"] - lines[0]["ndcg@10"])
    rows = [row.split("|")[1:3] for row in shown.splitlines() if row.startswith("| rq-kmeans")]
    assert len(rows) == 5 and all(int(seeds) == 1 for _, seeds in rows)
    assert "from scratch, 12 steps" in rows[0][0]
    assert "pre-trained, 12 steps, 8 steps on 2 domains before" in rows[4][0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--targets", "d"], "--targets: d is none of the domains a, b, c"),
        (["--codes", "tigre"], "--codes: tigre is neither"),
        (["--codes", "utgrec=a", "utgrec=b"], "--codes: utgrec stands for codes from two places"),
        (["--train_users", "0"], "--train_users: shares above 0"),
        (["--codes", "letter", "--tokenizer_on", "all"], "would learn from interactions"),
    ],
)
def test_what_cannot_be_is_said_first(flags, monkeypatch, capsys, changed, message):
    with pytest.raises(SystemExit, match=message):
        run(monkeypatch, capsys, *flags, *changed)
