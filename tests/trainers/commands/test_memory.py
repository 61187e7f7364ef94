"""`utgrec memory` from the command line in small: built, chosen, saved, found by what recommends, updated."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, pipeline

from hub_cards import load_values, save_card
from hub_cards.values import RecommenderCardValues
from modeling_utgrec import RecBaseConfig, RecBaseForCausalLM, UTGRecConfig, UTGRecForConditionalGeneration
from modeling_utgrec.memory_content import CONTENT_TENSORS
from tokenization_items import ItemIndex, StoredMemory, UniversalItemTokenizer
from tokenization_items.item_embeddings import save_embeddings
from tokenization_items.item_memory import MEMORY_NAME
from trainers import Recommender
from trainers.commands import run_command
from trainers.commands.memory import MemoryArguments
from trainers.commands.recommend import RecommendArguments
from trainers.commands.recommend import run as recommend
from trainers.data.interactions import Interactions
from trainers.data.item_brands import brand_number
from trainers.data.prepared_folder import PAIRS
from trainers.methods import memory as memory_module
from trainers.methods.memory_selection import BRAND_WEIGHTS
from trainers.rankers import load_ranker

N, LEVELS = 24, [4, 5, 6]
IDS = [f"item-{row}" for row in range(N)]
COLOURS = ["red", "blue", "green", "black"]


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "shop"
    write_data(folder, 40)
    return folder


def write_data(folder, users: int, words: bool = True) -> None:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    with open(folder / "items.jsonl", "w", encoding="utf-8") as file:
        for row, item_id in enumerate(IDS):
            title = f"{COLOURS[row % 4]} case of steel" if words else f"unique{row}"
            print(json.dumps({"item_id": item_id, "title": title}), file=file)
    with open(folder / "sequences.jsonl", "w", encoding="utf-8") as file:
        for user in range(users):
            steps = np.where(rng.random(rng.integers(4, 9)) < 0.7, 1, rng.integers(2, N))
            items = [IDS[place] for place in (rng.integers(N) + np.cumsum(steps)) % N]
            print(json.dumps({"user_id": f"u{user}", "items": items}), file=file)


def make_recommender(folder, kind: str = "T5") -> None:
    """Random weights, and an index in another order than the catalogue, with an item that it lacks."""
    index = ItemIndex(LEVELS, [2, 6, 11])
    codes = np.stack(np.unravel_index(np.arange(N + 1) * 3, LEVELS), axis=1)
    index.assign(["gone", *reversed(IDS)], codes)
    torch.manual_seed(0)
    if kind == "T5":
        sizes = {"d_model": 16, "d_ff": 24, "num_heads": 2, "d_kv": 8, "num_layers": 1, "initializer_factor": 2.0}
        model = UTGRecForConditionalGeneration(UTGRecConfig(level_sizes=LEVELS, **sizes))
    else:
        sizes = {"hidden_size": 16, "intermediate_size": 24, "head_dim": 8}
        model = RecBaseForCausalLM(RecBaseConfig.tiny(level_sizes=LEVELS, **sizes))
    model.save_pretrained(folder)
    UniversalItemTokenizer(index, None).save_pretrained(folder, include_network=False)


def test_a_split_without_test_items_is_known_before_the_memory_is_built(tmp_path, data, monkeypatch):
    make_recommender(tmp_path / "recommender")
    (data / "sequences.jsonl").unlink()
    rows = [f"u,{IDS[row]},{row},{part}" for row, part in enumerate(["train"] * 5 + ["validation"] * 3)]
    (data / "interactions.csv").write_text("\n".join(["user_id,item_id,timestamp,split", *rows]))
    flags = ["--recommender", str(tmp_path / "recommender"), "--data", str(data)]
    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="The split has no interaction in 'test'"):
        patch.setattr("trainers.commands.memory.choose_memory", None)
        run_command("memory", flags)
    run_command("memory", [*flags, "--no_test"])


def give_brands(folder) -> list[str]:
    """Brands of the items but each third, in the data; their lower case."""
    rows = [json.loads(line) for line in (folder / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    for place, row in enumerate(rows):
        row["brand"] = f"Maker {place % 5}" if place % 3 else None
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return [row["brand"] or "" for row in rows]


def test_brands_are_remembered_and_kept_by_an_update(tmp_path, data, capsys):
    folder = tmp_path / "recommender"
    make_recommender(folder)
    flags = ["--recommender", str(folder), "--data", str(data), "--no_test"]
    before = (folder / "item_index.safetensors").read_bytes()
    fixed = ["--brand_weight", "0.25", "--temperature", "0.04", "--mixing_weight", "0.6"]
    without = (data / "items.jsonl").read_text(encoding="utf-8")
    for wrong, message in (
        (["--update", "--no_brands"], "leave out --no_brands"),
        ([*fixed, "--no_brands"], "contradict"),
        (fixed, "--brand_weight 0.25: no item of .* has a brand"),
    ):
        with pytest.raises(SystemExit, match=message):
            run_command("memory", [*flags, *wrong])
    brands = give_brands(data)
    run_command("memory", [*flags, "--no_brands"])
    assert StoredMemory.load(folder).memory.brands is None
    run_command("memory", flags)
    tokenizer = UniversalItemTokenizer.from_pretrained(folder, index_only=True)
    stored = StoredMemory.load(folder, tokenizer.index)
    numbers = [brand_number(brand) if brand else -1 for brand in brands]
    assert stored.memory.brands[tokenizer.index.rows(IDS)].tolist() == numbers
    assert stored.memory.brands[tokenizer.index.rows(["gone"])].tolist() == [-1]
    assert [row["brand_weight"] for row in stored.facts["brand_weight_selection"]] == list(BRAND_WEIGHTS)
    save_card(folder, RecommenderCardValues(name="shop recommender"))
    give_brands(data)
    run_command("memory", [*flags, "--update"])
    again = StoredMemory.load(folder, tokenizer.index)
    assert torch.equal(again.memory.brands, stored.memory.brands)
    assert again.memory.settings == stored.memory.settings
    assert "Weight of the brand" in (folder / "README.md").read_text(encoding="utf-8")
    run_command("memory", [*flags, *fixed, "--repeat_weight", "-10"])
    given = StoredMemory.load(folder, tokenizer.index).memory.settings
    assert (given.brand_weight, given.repeat_weight) == (0.25, -10)
    kept = (folder / "item_memory.safetensors").read_bytes()
    (data / "items.jsonl").write_text(without, encoding="utf-8")
    with pytest.raises(SystemExit, match="reads the items' brands, and no item of .* has one"):
        run_command("memory", [*flags, "--update"])
    assert (folder / "item_memory.safetensors").read_bytes() == kept
    assert (folder / "item_index.safetensors").read_bytes() == before


def test_brands_of_a_memory_stay_with_their_items_where_the_data_have_none(tmp_path, data, capsys):
    """The data have their own order and lack an item of the index."""
    folder = tmp_path / "recommender"
    make_recommender(folder)
    flags = ["--recommender", str(folder), "--data", str(data), "--no_test"]
    without = (data / "items.jsonl").read_text(encoding="utf-8")
    give_brands(data)
    run_command("memory", [*flags, "--temperature", "0.04", "--mixing_weight", "0.6"])
    brands = StoredMemory.load(folder).memory.brands
    assert (brands >= 0).any()
    (data / "items.jsonl").write_text(without, encoding="utf-8")
    run_command("memory", [*flags, "--update"])
    assert torch.equal(StoredMemory.load(folder).memory.brands, brands)
    # of as many items as the catalogue, in another order
    tokenizer = UniversalItemTokenizer.from_pretrained(folder, index_only=True)
    tokenizer.remove_items(["gone"])
    tokenizer.save_pretrained(folder, include_network=False)
    stored = StoredMemory.load(folder)
    stored.memory = stored.memory.select(torch.arange(1, N + 1))
    stored.save(folder, tokenizer.index)
    run_command("memory", [*flags, "--update"])
    assert torch.equal(StoredMemory.load(folder).memory.brands, brands[1:])
    # whose items have changed since: which brand was whose is not known
    tokenizer.remove_items([IDS[0]])
    tokenizer.save_pretrained(folder, include_network=False)
    lines = [json.dumps({"item_id": each, "title": "case of steel"}) + "\n" for each in IDS[1:]]
    (data / "items.jsonl").write_text("".join(lines), encoding="utf-8")
    (data / "sequences.jsonl").write_text(json.dumps({"user_id": "u", "items": IDS[1:9]}), encoding="utf-8")
    run_command("memory", [*flags, "--update"])
    assert (StoredMemory.load(folder).memory.brands == -1).all() and "none is kept" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["T5", "Qwen3"])
def test_builds_chooses_saves_and_is_found(tmp_path, data, kind, capsys):
    folder = tmp_path / "recommender"
    make_recommender(folder, kind)
    save_card(folder, RecommenderCardValues(name="shop recommender", hyperparameters={"d": 16}))
    vectors = np.random.default_rng(0).normal(size=(N, 6)).astype(np.float32)
    save_embeddings(tmp_path / "texts", IDS, vectors, {"model": "random"})
    flags = ["--recommender", str(folder), "--data", str(data)]
    run_command("memory", [*flags, "--embeddings", str(tmp_path / "texts"), "--row_items", "5"])
    shown = capsys.readouterr().out
    assert "with memory" in shown and "network alone" in shown

    tokenizer = UniversalItemTokenizer.from_pretrained(folder, index_only=True)
    stored = StoredMemory.load(folder, tokenizer.index)
    assert stored.facts["row_items"] == 5 and (stored.memory.transition_items[0] == -1).all()
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "## Memory" in card and "memory=tokenizer.memory" in card and "Temperature" in card and "gate" in card
    values = load_values(folder)
    assert values.hyperparameters == {"d": 16} and len(values.evaluations) == 2
    rows = {row["Mixing weight"] for row in values.memory_selection}
    assert {0.0, 0.3, 0.5, 0.7, 0.85, 1.0} <= rows

    # what recommends finds it, and may leave it out
    stored.memory = stored.memory.with_settings(mixing_weight=0.8, gate=None)
    stored.save(folder, tokenizer.index)
    interactions = Interactions.from_folder(data, IDS)
    ranker, alone = (load_ranker(folder, interactions, memory=memory) for memory in (True, False))
    assert ranker.memory.settings == stored.memory.settings and alone.memory is None
    row = tokenizer.index.rows([IDS[3]])[0]
    followers = {tokenizer.index.item_ids[i] for i in stored.memory.transition_items[row].tolist() if i >= 0}
    assert followers == {IDS[i] for i in ranker.memory.transition_items[3].tolist() if i >= 0}, "in catalogue order"

    history = IDS[:3]
    found = recommend(RecommendArguments(str(folder), history=history, sources=True))
    assert "after item-2" in capsys.readouterr().out
    network = recommend(RecommendArguments(str(folder), history=history, no_memory=True))
    assert found != network
    recommender = pipeline("item-recommendation", model=str(folder))
    entries = recommender(history, return_sources=True)
    assert [(entry["item_id"], pytest.approx(entry["score"], abs=1e-5)) for entry in entries] == found[0]
    for entry in entries:
        sources = entry["sources"]
        total = sources["network"] + sources["unknown"]
        total += sum(sources["transitions"].values()) + sum(sources["content"].values())
        assert total == pytest.approx(1, abs=1e-5) and set(sources["transitions"]) <= set(history)
    without = pipeline("item-recommendation", model=str(folder), memory=False)(history)
    assert [(entry["item_id"], pytest.approx(entry["score"], abs=1e-5)) for entry in without] == network[0]
    recommender.save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy" / MEMORY_NAME).is_file()


def test_texts_without_an_encoder_and_fixed_settings(tmp_path, data):
    folder = tmp_path / "recommender"
    make_recommender(folder)
    fixed = ["--temperature", "0.04", "--mixing_weight", "0.6", "--no_test", "--transitions", "counts"]
    run_command("memory", ["--recommender", str(folder), "--data", str(data), *fixed])
    tokenizer = UniversalItemTokenizer.from_pretrained(folder, index_only=True)
    stored = StoredMemory.load(folder, tokenizer.index)
    assert (stored.memory.settings.temperature, stored.memory.settings.mixing_weight) == (0.04, 0.6)
    assert stored.memory.settings.content_weight == 0.02 and stored.facts["content"] == "tf-idf"
    assert stored.pairs is not None and "selection" not in stored.facts
    write_data(data, 40, words=False)  # no word is shared
    run_command("memory", ["--recommender", str(folder), "--data", str(data), *fixed])
    stored = StoredMemory.load(folder, tokenizer.index)
    assert stored.memory.content is None and stored.memory.settings.content_weight == 0


@pytest.mark.parametrize("helps", [True, False])
def test_that_later_items_will_not_be_known_is_said(tmp_path, data, capsys, helps):
    folder = tmp_path / "recommender"
    make_recommender(folder)
    if helps:  # an item's follower has the same word twice in three times
        items = [{"item_id": item_id, "title": f"{COLOURS[row // 3 % 4]} case"} for row, item_id in enumerate(IDS)]
        (data / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    run_command("memory", ["--recommender", str(folder), "--data", str(data), "--no_test"])
    weight = StoredMemory.load(folder).memory.settings.content_weight
    assert (weight > 0) is helps and ("not be known to the memory" in capsys.readouterr().out) is not helps


@pytest.mark.parametrize("chosen", [True, False])
def test_pairs_that_prepare_has_counted_are_read(tmp_path, data, monkeypatch, chosen):
    """Of the training part nothing is counted, and the memory is the same to the last bit, built and updated."""
    sequences = [json.loads(line)["items"] for line in (data / "sequences.jsonl").read_text().splitlines()]
    with open(tmp_path / "log.csv", "w", encoding="utf-8") as log:
        print("user_id,item_id,timestamp", file=log)
        for user, items in enumerate(sequences):
            print(*(f"u{user},{item},{10**9 + at}" for at, item in enumerate(items)), sep="\n", file=log)
    source = ["--format", "tabular", "--interactions", tmp_path / "log.csv", "--items", data / "items.jsonl"]
    given = ["--output_dir", tmp_path / "prepared", "--pair_horizon", "10", "--k_core", "0", "--repeats", "all"]
    run_command("prepare", [*map(str, [*source, *given])])
    folder, counted = tmp_path / "recommender", []
    make_recommender(folder)
    flags = ["--recommender", str(folder), "--data", str(tmp_path / "prepared"), "--no_test"]
    settings = ["--transitions", "counts"]
    settings += [] if chosen else ["--temperature", "0.04", "--mixing_weight", "0.6"]
    training = len(Interactions.from_folder(tmp_path / "prepared", IDS).training_part().items)
    count = memory_module.whole_counts
    monkeypatch.setattr(memory_module, "whole_counts", lambda *given: counted.append(len(given[1])) or count(*given))
    index, written = UniversalItemTokenizer.from_pretrained(folder, index_only=True).index, []
    for _ in range(2):
        for way in (settings, ["--update"]):
            run_command("memory", [*flags, *way])
            stored = StoredMemory.load(folder, index)
            assert stored.pairs is not None
            written.append((stored.memory.tensors() | stored.pairs, stored.facts, stored.memory.settings))
        (tmp_path / "prepared" / PAIRS).unlink(missing_ok=True)
        assert (training in counted) == (len(written) == 4)
    for (tensors, *rest), (expected, *others) in zip(written[:2], written[2:], strict=True):
        assert rest == others and tensors.keys() == expected.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors.items())


def test_update_keeps_the_settings_and_takes_new_items(tmp_path, data, capsys):
    folder = tmp_path / "recommender"
    make_recommender(folder)
    flags = ["--recommender", str(folder), "--data", str(data)]
    fixed = ["--temperature", "0.04", "--mixing_weight", "0.6", "--no_test"]
    run_command("memory", [*flags, *fixed, "--no_content"])
    assert "Of 1 items of the index, which shop lacks, nothing is known: 'gone'." in capsys.readouterr().out
    tokenizer = UniversalItemTokenizer.from_pretrained(folder, index_only=True)
    before = StoredMemory.load(folder, tokenizer.index)
    tokenizer.remove_items(["gone"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match="Items were added or removed"):
        UniversalItemTokenizer.from_pretrained(folder).memory  # noqa: B018
    write_data(data, 60)
    run_command("memory", [*flags, "--update", "--all_interactions", "--no_content"])
    after = StoredMemory.load(folder, UniversalItemTokenizer.from_pretrained(folder).index)
    assert after.memory.settings == before.memory.settings and after.memory.num_items == N
    assert after.facts["part"] == "all" and after.facts["interactions"] > before.facts["interactions"]
    assert "nothing is known" not in capsys.readouterr().out


def test_the_card_does_not_say_what_the_memory_before_was_worth(tmp_path, data):
    folder = tmp_path / "recommender"
    make_recommender(folder)
    flags = ["--recommender", str(folder), "--data", str(data), "--no_content"]
    said = []
    for more in (["--temperature", "0.04", "--mixing_weight", "0.6"], ["--update", "--all_interactions"]):
        run_command("memory", [*flags, *more])
        said.append([each.protocol["recommender"] for each in load_values(folder).evaluations])
    assert said == [["with memory", "network alone"], ["network alone"]]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--update"], "item_memory.safetensors is missing"),
        (["--update", "--row_items", "5", "--similar_items", "5"], "leave out --row_items, --similar_items"),
        (["--update", "--transitions", "counts", "--regularization", "3"], "out --transitions, --regularization"),
        (["--update", "--trend_weight", "0.1", "--repeat_weight", "-1"], "leave out --trend_weight, --repeat_weight"),
        (["--update", "--temperature", "1", "--mixing_weight", "1"], "leave out --temperature, --mixing_weight"),
        (["--temperature", "0.1"], "go together"),
        (["--temperature", "0", "--mixing_weight", "0.5"], "temperature must be above 0"),
        (["--temperature", "0.1", "--mixing_weight", "2"], "mixing_weight must be from 0 to 1"),
        (["--all_interactions"], "is for --update"),
        (["--temperature", "nan", "--mixing_weight", "0.5"], "temperature of an item memory must be a finite number"),
        (["--temperature", "0.1", "--mixing_weight", "0.5", "--content_weight", "-1"], "must be at least 0"),
        (["--regularization", "-1"], "regularization must be above 0"),
        (["--num_beams", "0"], "must be at least 1"),
        (["--k_core", "-1"], "k_core must be at least 0"),
        (["--embeddings", "nowhere"], "missing; a folder of embeddings"),
        (["--row_items", "0"], "--row_items and --similar_items"),
        (["--output_dir", "x"], "--output_dir is for a recommender of the Hub"),
        (["--no_content", "--embeddings", "x"], "contradict"),
    ],
)
def test_bad_input_is_named_before_anything_is_written(tmp_path, data, flags, said):
    folder = tmp_path / "recommender"
    make_recommender(folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(SystemExit, match=said):
        run_command("memory", ["--recommender", str(folder), "--data", str(data), *flags])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


def test_update_of_another_encoder_is_refused(tmp_path, data):
    folder = tmp_path / "recommender"
    make_recommender(folder)
    flags = ["--recommender", str(folder), "--data", str(data), "--embeddings", str(tmp_path / "texts")]
    save_embeddings(tmp_path / "texts", IDS, np.random.default_rng(0).normal(size=(N, 6)).astype(np.float32), {})
    run_command("memory", [*flags, "--temperature", "0.1", "--mixing_weight", "0.5", "--no_test"])
    before = (folder / MEMORY_NAME).read_bytes()
    save_embeddings(tmp_path / "texts", IDS, np.random.default_rng(0).normal(size=(N, 7)).astype(np.float32), {})
    with pytest.raises(SystemExit, match="in 6 numbers, these in 7"):
        run_command("memory", [*flags, "--update"])
    with pytest.raises(SystemExit, match="give --embeddings"):
        write_data(data, 40, words=False)
        run_command("memory", [*flags[:4], "--update"])
    assert (folder / MEMORY_NAME).read_bytes() == before


def test_recommending_names_what_is_wrong(tmp_path, data):
    folder = tmp_path / "recommender"
    make_recommender(folder)
    flags = ["--recommender", str(folder), "--history"]
    run_command("memory", [*flags[:2], "--data", str(data), "--temperature", "1", "--mixing_weight", "1", "--no_test"])
    for more, said in (
        (["nothing"], "1 items are not in the index of 25 items: 'nothing'"),
        (["item-1", "--num_items", "0"], "must be at least 1, got 0"),
    ):
        with pytest.raises(SystemExit, match=said):
            run_command("recommend", [*flags, *more])
    whole = (folder / MEMORY_NAME).read_bytes()
    tokenizer = UniversalItemTokenizer.from_pretrained(folder)
    tokenizer.remove_items(["gone"])
    tokenizer.save_pretrained(folder)
    for stale, said in ((whole, "Items were added or removed.*--no_memory"), (whole[:99], "truncated")):
        (folder / MEMORY_NAME).write_bytes(stale)
        with pytest.raises(SystemExit, match=said):
            run_command("recommend", [*flags, "item-1"])
        run_command("recommend", [*flags, "item-1", "--no_memory"])
    (folder / MEMORY_NAME).unlink()
    with pytest.raises(SystemExit, match="--sources: there is no memory"):
        run_command("recommend", [*flags, "item-1", "--sources"])
    lines = (data / "items.jsonl").read_text() + json.dumps({"item_id": "new", "title": "a"}) + "\n"
    (data / "items.jsonl").write_text(lines)
    with pytest.raises(SystemExit, match="1 items are not in the index .*'new'"):
        run_command("memory", [*flags[:2], "--data", str(data)])
    assert not (folder / MEMORY_NAME).exists()


def test_an_encoder_is_told_by_its_fingerprint(tmp_path, data):
    """Of the same width as the other, too; TF-IDF is made anew, of whatever width."""
    folder, texts = tmp_path / "recommender", str(tmp_path / "texts")
    make_recommender(folder)
    flags, fixed = ["--recommender", str(folder), "--data", str(data)], ["--temperature", "0.1", "--mixing_weight"]
    vectors = np.random.default_rng(0).normal(size=(N, 6)).astype(np.float32)
    save_embeddings(texts, IDS, vectors, {"encoder_fingerprint": "first"})
    run_command("memory", [*flags, *fixed, "0.5", "--no_test", "--embeddings", texts])
    before = (folder / MEMORY_NAME).read_bytes()
    save_embeddings(texts, IDS, vectors, {"encoder_fingerprint": "second"})
    with pytest.raises(SystemExit, match="by the encoder with fingerprint first, these by second"):
        run_command("memory", [*flags, "--update", "--embeddings", texts])
    with pytest.raises(SystemExit, match="by the encoder with fingerprint first"):
        run_command("memory", [*flags, "--update"])  # TF-IDF
    assert (folder / MEMORY_NAME).read_bytes() == before
    save_embeddings(texts, IDS, vectors, {"encoder_fingerprint": "first"})
    run_command("memory", [*flags, "--update", "--no_test", "--embeddings", texts])
    assert StoredMemory.load(folder).facts["content_encoder"] == "first"

    run_command("memory", [*flags, *fixed, "0.5", "--no_test"])
    width = len(StoredMemory.load(folder).memory.content.mean)
    lines = (data / "items.jsonl").read_text().replace("red case of steel", "red case of wood", 3)
    (data / "items.jsonl").write_text(lines)
    run_command("memory", [*flags, "--update", "--no_test"])
    assert len(StoredMemory.load(folder).memory.content.mean) > width


def test_what_cannot_be_written_is_known_before_the_work(tmp_path, data, monkeypatch):
    folder = tmp_path / "recommender"
    make_recommender(folder)

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    monkeypatch.setattr("trainers.commands.memory.choose_memory", None)
    with pytest.raises(SystemExit, match=r"No files can be written to .*recommender \(Permission denied\)"):
        run_command("memory", ["--recommender", str(folder), "--data", str(data)])
    # nor are files of another kind where one of the Hub would go
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    with pytest.raises(SystemExit, match="holds other files, which the recommender's might replace"):
        run_command("memory", ["--recommender", "org/x", "--data", str(data), "--output_dir", str(tmp_path / "other")])


def test_a_recommender_of_the_hub_is_fetched(tmp_path, data, hub):
    make_recommender(tmp_path / "local")
    name = hub.new_repo("recommender")
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "local")
    model.push_to_hub(name)
    UniversalItemTokenizer.from_pretrained(tmp_path / "local").push_to_hub(name, include_network=False)
    fixed = ["--temperature", "0.1", "--mixing_weight", "0.5", "--no_test"]
    with pytest.raises(SystemExit, match="give --output_dir"):
        run_command("memory", ["--recommender", name, "--data", str(data), *fixed])
    output = tmp_path / "fetched"
    for _ in range(2):  # the second finds what the first has fetched
        run_command("memory", ["--recommender", name, "--data", str(data), "--output_dir", str(output), *fixed])
    tokenizer = UniversalItemTokenizer.from_pretrained(output)
    assert tokenizer.memory is not None
    # pushed and pulled
    tokenizer.push_to_hub(name, include_network=False)
    pulled = UniversalItemTokenizer.from_pretrained(name, index_only=True)
    assert torch.equal(pulled.memory.transition_items, tokenizer.memory.transition_items)
    recommender = pipeline("item-recommendation", model=name)
    assert recommender.memory is not None and len(recommender(IDS[:2])) == 10


def test_arguments_have_their_defaults():
    assert MemoryArguments("a", "b").row_items == 100


def test_a_log_that_is_read_in_parts_gives_the_same_memory(tmp_path, data, capsys):
    """Of all users; of some, the rows are those of all, and fewer are judged."""
    log = [json.loads(line) for line in (data / "sequences.jsonl").read_text().splitlines()]
    start, events = 1_600_000_000, []
    for user in log:
        events += [f"{user['user_id']},{item},{start + place}" for place, item in enumerate(user["items"])]
    (tmp_path / "log.csv").write_text("\n".join(["user_id,item_id,timestamp", *events]) + "\n")
    given = ["--format", "tabular", "--interactions", tmp_path / "log.csv", "--items", data / "items.jsonl"]
    given += ["--output_dir", tmp_path / "prepared", "--k_core", 0]
    run_command("prepare", [*map(str, given)])
    found = {}
    for name, flags in {
        "as it was": [],
        "all": ["--sample_users", 1000],
        "some": ["--sample_users", 15, "--seed", 3],
    }.items():
        make_recommender(tmp_path / name)
        usual = ["--recommender", tmp_path / name, "--data", tmp_path / "prepared", "--transitions", "counts", *flags]
        if flags and not (tmp_path / "prepared" / PAIRS).exists():
            with pytest.raises(SystemExit, match="prepare it with `utgrec prepare --pair_horizon 10`"):
                run_command("memory", [*map(str, usual)])
            run_command("prepare", [*map(str, given), "--pair_horizon", "10", "--overwrite"])
        run_command("memory", [*map(str, usual)])
        found[name] = StoredMemory.load(tmp_path / name)
    assert "15 users, drawn by seed 3, choose and judge" in capsys.readouterr().out
    judged = found["all"].facts.pop("judged_users")
    assert judged == 40 and found["some"].facts["judged_users"] == 15
    assert found["all"].facts == found["as it was"].facts
    assert found["all"].memory.settings == found["as it was"].memory.settings
    for name, tensor in found["as it was"].memory.tensors().items():
        assert torch.equal(found["all"].memory.tensors()[name], tensor)
        if name not in CONTENT_TENSORS:  # which depend on what was chosen
            assert torch.equal(found["some"].memory.tensors()[name], tensor), name
    for flags, message in ((["--k_core", "3"], "leave out --k_core"), (["--transitions", "auto"], "decayed counts")):
        with pytest.raises(SystemExit, match=message):
            run_command("memory", [*map(str, usual), *flags])


def test_a_quick_start_keeps_its_own_tf_idf(tmp_path, data):
    """By which new items are embedded: of another fit they would be beside items that they are not like."""
    rows = [json.loads(line) for line in (data / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    log = [json.loads(line) for line in (data / "sequences.jsonl").read_text(encoding="utf-8").splitlines()]
    orders = [
        {"user": row["user_id"], "item": item, "time": time} for row in log for time, item in enumerate(row["items"])
    ]
    made = Recommender.from_interactions(orders, rows)
    for row in rows:  # today there are other words, and a fit of other vectors of the same width
        row["title"] = row["title"].replace("case", "box").replace("steel", "brass")
    rows += [{"item_id": f"new-{row}", "title": f"{colour} case"} for row, colour in enumerate(COLOURS)]
    made.add_items(rows)
    made.save_pretrained(tmp_path / "recommender")
    (data / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    flags = ["--recommender", str(tmp_path / "recommender"), "--data", str(data), "--no_test"]
    for more in (["--update", "--all_interactions"], ["--temperature", "0.04", "--mixing_weight", "1"]):
        run_command("memory", [*flags, *more])
        updated = Recommender.from_pretrained(tmp_path / "recommender")
        assert updated.memory.content.vectors.shape == made.memory.content.vectors.shape
        updated.add_items([{"item_id": "latest", "title": rows[1]["title"]}])
        best = updated.similar("latest", 3)
        assert best[0]["score"] > 0.99 and "blue" in best[0]["title"]
