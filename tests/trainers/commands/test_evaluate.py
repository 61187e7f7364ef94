"""The evaluation command, in process, on a small data folder."""

import json

import numpy as np
import pytest
import torch

from hub_cards import SequentialCardValues, save_card
from modeling_utgrec import SASRecConfig, SASRecForNextItem
from tokenization_items.item_embeddings import save_embeddings
from trainers import Recommender
from trainers.commands import run_command
from trainers.data.interactions import Interactions
from trainers.evaluation.candidate_rows import RowChoices, draw_rows
from trainers.evaluation.protocol import evaluate
from trainers.evaluation.significance import paired_test
from trainers.rankers.item_transitions import ItemTransitions
from trainers.rankers.linear_selection import linear_ranker
from trainers.rankers.nearest_items import NearestItems
from trainers.rankers.popularity import Popularity

IDS = [f"i{n}" for n in range(30)]


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    sequences = [[IDS[item] for item in rng.zipf(1.5, 9) % 30] for _ in range(40)]
    (tmp_path / "items.jsonl").write_text(
        "".join(json.dumps({"item_id": i, "title": f"item {i}"}) + "\n" for i in IDS)
    )
    rows = [{"user_id": str(u), "items": sequence} for u, sequence in enumerate(sequences)]
    (tmp_path / "sequences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.fixture
def run(capsys, data):
    def call(*arguments: str) -> str:
        run_command("evaluate", ["--data", str(data), *arguments])
        return capsys.readouterr().out

    return call


@pytest.mark.parametrize("flags, masked", [([], False), (["--mask_seen"], True), (["--mask-seen"], True)])
def test_json_is_one_line_and_equals_evaluate(run, data, flags, masked):
    out = run("--recommender", "item-transitions", *flags, "--json", "-")
    assert out.count("\n") == 1
    interactions = Interactions.from_folder(data, IDS)
    recommender = ItemTransitions(interactions.training_part())
    expected = evaluate(recommender, interactions, mask_seen=masked, intervals=1000)
    assert json.loads(out) == expected
    assert expected["seen"] == ("masked" if masked else "kept") and expected["recall@10"] > 0


def test_settings_arrive(run, data):
    out = run("--recommender", "popularity", "--k", "3", "7", "--max_history", "0", "--intervals", "0", "--json", "-")
    interactions = Interactions.from_folder(data, IDS)
    expected = evaluate(Popularity(interactions.training_part()), interactions, max_history=None, ks=(3, 7))
    assert json.loads(out) == expected and expected["max_history"] is None
    core = interactions.k_core(4)
    kept = json.loads(run("--recommender", "popularity", "--k_core", "4", "--json", "-"))
    assert (
        0 < core.num_users
        and kept["candidates"] == f"all {(core.popularity > 0).sum()} items"
        and kept["num_users"] == core.num_users
    )


def test_linear_is_judged_with_the_settings_of_its_choice(run, data, tmp_path):
    interactions = Interactions.from_folder(data, IDS)
    told = json.loads(run("--recommender", "linear", "--intervals", "0", "--json", "-"))
    ranker = linear_ranker(interactions, texts=[f"item {i}" for i in IDS])
    assert {key: value for key, value in told.items() if key != "description"} == evaluate(ranker, interactions)
    assert told["description"] == json.loads(json.dumps(ranker.description)) and told["name"] == ranker.name
    content = np.random.default_rng(1).normal(size=(30, 4)).astype(np.float32)
    save_embeddings(tmp_path / "texts", IDS, content)
    compared = run("--recommender", "popularity", "--compare_with", "linear", "--embeddings", str(tmp_path / "texts"))
    assert linear_ranker(interactions, content).name in compared
    # the texts of the items that are kept, in their order
    core = json.loads(run("--recommender", "linear", "--k_core", "4", "--json", "-"))
    assert core["description"]["content"] == "tf-idf" and core["candidates"] != told["candidates"]


def test_given_split(run, data):
    sequences = [json.loads(line) for line in (data / "sequences.jsonl").read_text().splitlines()]
    (data / "sequences.jsonl").unlink()
    parts = ["train"] * 6 + ["validation"] + ["test"] * 2
    rows = [
        f"{row['user_id']},{item},{time},{part}"
        for row in sequences
        for time, (item, part) in enumerate(zip(row["items"], parts, strict=True))
    ]
    (data / "interactions.csv").write_text("user_id,item_id,timestamp,split\n" + "\n".join(rows))
    (data / "prepared.json").write_text(json.dumps({"choices": {"split": "temporal"}}))
    result = json.loads(run("--recommender", "item-transitions", "--json", "-"))
    assert (result["split"], result["num_users"], result["num_cases"]) == ("temporal", 40, 80)


def test_nearest_items(run, data, tmp_path):
    embeddings = np.random.default_rng(1).normal(size=(30, 4)).astype(np.float32)
    with pytest.raises(SystemExit, match="nearest-items needs the embeddings of the items' texts"):
        run("--recommender", "nearest-items")
    save_embeddings(tmp_path / "texts", IDS[::-1], embeddings[::-1])  # the file's order is not the catalogue's
    flags = ["--embeddings", str(tmp_path / "texts"), "--query", "mean", "--intervals", "0"]
    interactions = Interactions.from_folder(data, IDS)
    expected = evaluate(NearestItems(embeddings, "mean"), interactions)
    assert json.loads(run("--recommender", "nearest-items", *flags, "--json", "-")) == expected


def test_comparison_with_a_recommender_and_with_a_file(run, data, tmp_path, monkeypatch):
    file = str(tmp_path / "floor.json")
    run("--recommender", "popularity", "--per_user", "--json", file)
    result = json.loads(run("--recommender", "item-transitions", "--compare_with", "popularity", "--json", "-"))
    assert result == json.loads(run("--recommender", "item-transitions", "--compare_with", file, "--json", "-"))
    interactions = Interactions.from_folder(data, IDS)
    training = interactions.training_part()
    a, b = (evaluate(floor(training), interactions, per_user=True) for floor in (ItemTransitions, Popularity))
    assert result["comparison"] == {"with": "popularity", "metrics": paired_test(a["per_user"], b["per_user"])}
    assert result["comparison"]["metrics"]["ndcg@10"]["difference"] == pytest.approx(a["ndcg@10"] - b["ndcg@10"])
    table = run("--recommender", "item-transitions", "--compare_with", file)
    assert "item transitions against popularity" in table and "| p_value |" in table
    monkeypatch.setattr("trainers.commands.evaluate.evaluate", None)  # what is unlike is known before the work
    for flags, said in [
        (["--mask-seen"], "seen is 'masked' and 'kept'"),
        (["--part", "validation"], "part is 'validation' and 'test'"),
        (["--ks", "7"], "has none of these cut-offs"),
    ]:
        with pytest.raises(SystemExit, match=said):
            run("--recommender", "item-transitions", *flags, "--compare_with", file)
    result = json.loads((tmp_path / "floor.json").read_text())
    result["per_user"]["targets"][0] += 1
    (tmp_path / "other.json").write_text(json.dumps(result))
    with pytest.raises(SystemExit, match="not of the same cases: their targets differ"):
        run("--recommender", "item-transitions", "--compare_with", str(tmp_path / "other.json"))
    monkeypatch.undo()
    run("--recommender", "popularity", "--json", file)
    with pytest.raises(SystemExit, match="--per_user"):
        run("--recommender", "item-transitions", "--compare_with", file)


def test_seeds(run, tmp_path):
    seeds = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        config = SASRecConfig(num_items=len(IDS), hidden_size=8, num_heads=1, max_history=4)
        seeds.append(str(tmp_path / f"seed-{seed}"))
        SASRecForNextItem(config).save_pretrained(seeds[-1])
    result = json.loads(run("--recommender", *seeds, "--json", "-"))
    first, second = result["seeds"]
    assert result["name"] == "seed-1, seed-2" and result["num_seeds"] == 2
    assert result["recall@10"] == pytest.approx((first["recall@10"] + second["recall@10"]) / 2)
    assert result["sd"]["recall@10"] == pytest.approx(abs(first["recall@10"] - second["recall@10"]) / 2**0.5)
    table = run("--recommender", *seeds, "--compare_with", "popularity")
    assert " ± " in table and "against popularity" in table
    with pytest.raises(SystemExit, match="one by one"):
        run("--recommender", *seeds, "--per_user")
    for other in ("popularity", "item-transitions"):
        with pytest.raises(SystemExit, match=f"seeds of one model.* {seeds[0]} is SASRecForNextItem, {other} is"):
            run("--recommender", *seeds, other)
    SASRecForNextItem(SASRecConfig(num_items=len(IDS), hidden_size=4, num_heads=1)).save_pretrained(tmp_path / "other")
    with pytest.raises(SystemExit, match=f"{seeds[0]} is hidden_size 8, {tmp_path}/other is hidden_size 4"):
        run("--recommender", *seeds, str(tmp_path / "other"))
    for folder, method in zip(seeds, ("tiger", "letter"), strict=True):  # of one network, as both have a T5
        save_card(folder, SequentialCardValues(name="x", method=method))
    with pytest.raises(SystemExit, match="seed-1 is method tiger, .*seed-2 is method letter"):
        run("--recommender", *seeds)


def test_that_a_model_gets_less_than_it_reads_is_said(data, tmp_path, capsys):
    config = SASRecConfig(num_items=len(IDS), hidden_size=8, num_heads=1, max_history=30)
    SASRecForNextItem(config).save_pretrained(tmp_path / "model")
    flags = ["--data", str(data), "--recommender", str(tmp_path / "model"), "--intervals", "0", "--json", "-"]
    for more, limit in (([], 20), (["--max_history", "30"], 30), (["--max_history", "0"], 30)):
        run_command("evaluate", [*flags, *more])
        said = capsys.readouterr()
        assert json.loads(said.out)["max_history"] == limit
        assert ("reads 30 items of a history and gets 20" in said.err) == (limit == 20)


def test_a_memory_of_all_interactions_is_said_to_know_what_is_to_be_found(data, tmp_path, capsys):
    sequences = [json.loads(line) for line in (data / "sequences.jsonl").read_text().splitlines()]
    orders = [
        {"user": row["user_id"], "item": item, "time": time}
        for row in sequences
        for time, item in enumerate(row["items"])
    ]
    products = [{"item": item, "title": f"{'red' if row % 2 else 'blue'} pen"} for row, item in enumerate(IDS)]
    shop = str(tmp_path / "shop")
    Recommender.from_interactions(orders, products).save_pretrained(shop)

    def judged(*flags: str) -> tuple[dict, str]:
        capsys.readouterr()
        chosen = ["--data", str(data), "--recommender", shop, "--intervals", "0", "--json", "-"]
        run_command("evaluate", [*chosen, *flags])
        said = capsys.readouterr()
        return json.loads(said.out), said.err

    result, said = judged()
    assert result["remembers"] == "all" and f"--recommender {shop}: its memory counts all interactions" in said
    result, said = judged("--no_memory")
    assert "remembers" not in result and "counts all" not in said
    run_command("memory", ["--recommender", shop, "--data", str(data), "--update", "--no_test"])
    result, said = judged()
    assert "remembers" not in result and "counts all" not in said


def test_table_and_file(run, tmp_path):
    table = run("--recommender", "popularity", "--part", "validation", "--max_history", "5")
    assert "| popularity | 0." in table and "| [0,20) |" in table and "validation" in table
    assert run("--recommender", "popularity", "--json", str(tmp_path / "out.json")) == ""
    assert json.loads((tmp_path / "out.json").read_text())["num_users"] == 40
    assert not list(tmp_path.glob("*.tmp"))


def test_unknown_recommender(run):
    with pytest.raises(SystemExit, match="--recommender nowhere is none of popularity, item-transitions, "):
        run("--recommender", "nowhere")


# --- zero-shot


@pytest.fixture
def embedded(tmp_path) -> list[str]:
    embeddings = np.random.default_rng(1).normal(size=(30, 4)).astype(np.float32)
    save_embeddings(tmp_path / "texts", IDS, embeddings)
    return ["--zero-shot", "--embeddings", str(tmp_path / "texts"), "--intervals", "20"]


def test_zero_shot_lines(run, data, tmp_path, embedded):
    flags = [*embedded, "--negatives_per_positive", "3", "--max_rows", "100", "--ks", "10", "5"]
    out = run("--recommender", "nearest-items", "popularity", *flags, "--json", "-")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["model"] for line in lines] == ["nearest items (last)", "popularity"]
    rows = draw_rows(Interactions.from_folder(data, IDS), RowChoices(negatives_per_positive=3, max_rows=100))
    for line in lines:
        assert line.items() >= rows.facts().items() and line["domain"] == data.name and line["num_rows"] <= 100
        assert 0 <= line["gauc"] <= 1 and line["recall@5"] <= line["recall@10"] and line["seed"] is None
        assert len(line["intervals"]["gauc"]) == 2 and line["pretrained_on"] == [] and "per_user" not in line
        assert "--embeddings texts" in line["command"] and str(tmp_path) not in line["command"]
    interactions = Interactions.from_folder(data, IDS)
    expected = evaluate(Popularity(interactions.training_part()), interactions, ks=(10, 5))
    assert lines[1]["ndcg@10"] == expected["ndcg@10"] and lines[1]["uses_domain"] and not lines[0]["uses_domain"]
    file = tmp_path / "lines.jsonl"
    assert run("--recommender", "nearest-items", "popularity", *flags, "--json", str(file)) == ""
    again = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["gauc"] for line in again] == [line["gauc"] for line in lines]


def test_zero_shot_comparison_and_table(run, embedded):
    flags = [*embedded, "--compare_with", "popularity", "--no_full_ranking"]
    line = json.loads(run("--recommender", "nearest-items", *flags, "--json", "-").splitlines()[0])
    other = json.loads(run("--recommender", "popularity", *embedded, "--json", "-"))
    assert line["comparison"]["with"] == "popularity" and line["recall@10"] is None
    test = line["comparison"]["metrics"]["gauc"]
    assert test["difference"] == pytest.approx(line["gauc"] - other["gauc"]) and test["low"] < test["high"]
    table = run("--recommender", "nearest-items", *flags)
    assert "unseen in pre-training" in table and "nearest items (last) against popularity" in table


def test_zero_shot_with_ratings(run, data, embedded):
    records = [json.loads(line) for line in (data / "sequences.jsonl").read_text().splitlines()]
    for record in records:
        record["ratings"] = [1 + (IDS.index(item) % 5) for item in record["items"]]
    (data / "sequences.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    line = json.loads(run("--recommender", "nearest-items", *embedded, "--json", "-"))
    assert (line["labels"], line["targets"], line["positive_rating"]) == ("ratings", "any", 4.0)
    line = json.loads(run("--recommender", "nearest-items", *embedded, "--labels", "sampled", "--json", "-"))
    assert (line["labels"], line["targets"]) == ("sampled", "test")


def test_zero_shot_refuses_before_work_starts(run, data, tmp_path, embedded):
    with pytest.raises(SystemExit, match="The data has no ratings"):
        run("--recommender", "popularity", *embedded, "--labels", "ratings")
    with pytest.raises(SystemExit, match="item transitions gives no scores"):
        run("--recommender", "item-transitions", *embedded)
    with pytest.raises(SystemExit, match="needs --language_model"):
        run("--recommender", "title-likelihood", *embedded)
    save_embeddings(tmp_path / "texts", IDS[:-2], np.ones((28, 4)))
    with pytest.raises(SystemExit, match=r"no embeddings of 2 of 30 items: 'i28', 'i29'; compute"):
        run("--recommender", "popularity", "nearest-items", *embedded)
    rows = [{"user_id": str(user), "items": [IDS[user]]} for user in range(5)]
    (data / "sequences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(SystemExit, match="No user has rows of both labels: of 5 users 5 have no target"):
        run("--recommender", "popularity", *embedded)


def test_a_result_that_cannot_be_written_is_known_before_the_work(run, tmp_path, monkeypatch):
    monkeypatch.setattr("trainers.commands.evaluate.judge", None)
    with pytest.raises(SystemExit, match="is a folder: give a file"):
        run("--recommender", "popularity", "--json", str(tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="No files can be written to"):
        run("--recommender", "popularity", "--json", str(tmp_path / "file" / "out.json"))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--max_history", "-1"], "--max_history is at least 0, got -1"),
        (["--k_core", "-1"], "--k_core is at least 0"),
        (["--intervals", "-1"], "--intervals is at least 0"),
        (["--num_beams", "0"], "--num_beams is at least 1"),
        (["--batch_size", "0"], "--batch_size is at least 1, got 0"),
        (["--ks", "5", "0"], r"--ks are cut-offs of at least 1, got \[5, 0\]"),
        (["--zero_shot", "--part", "validation"], "--zero_shot judges the test part.*: leave out --part"),
        (["--zero_shot", "--per_user"], "--per_user keeps ranks.*: leave it out"),
        (["--items", "there", "--score", "mean"], "--score, --items: for --zero_shot alone"),
        (["--language_model", "some", "--labels", "sampled"], "--labels, --language_model: for --zero_shot alone"),
        (["--compare_with", "nowhere.json"], "--compare_with nowhere.json is none of"),
        (["--revision", "v1"], "--revision is of a --recommender on the Hub: there is none"),
        (["--revision", "v1", "--zero_shot"], "--revision is of a --recommender on the Hub: there is none"),
        (
            ["--compare_with", "linear", "--embeddings", "nowhere"],
            "(?s)--compare_with linear: .*embeddings.safetensors is missing",
        ),
    ],
)
def test_bad_flags_are_named_before_anything_is_judged(run, monkeypatch, flags, said):
    monkeypatch.setattr("trainers.commands.evaluate.evaluate", None)
    with pytest.raises(SystemExit, match=said):
        run("--recommender", "popularity", *flags)
