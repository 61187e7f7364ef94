"""An item-level recommender with the Trainer of recommenders: batches, validation, losses by level, checkpoints."""

import json

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import pipeline, set_seed

import tokenization_items  # noqa: F401 (registers the pipeline)
from hub_cards import load_values
from modeling_utgrec import ItemLevelConfig, ItemLevelForCausalLM, UTGRecConfig, UTGRecForConditionalGeneration
from tokenization_items import TokenizerMismatchError, UniversalItemTokenizer
from tokenization_items.item_index import ItemIndex
from trainers.data.interactions import Interactions
from trainers.methods.item_level import ItemLevelArguments, ItemLevelTrainingArguments, new_item_level
from trainers.rankers.generative import GenerativeRanker, load_model
from trainers.recommender_trainer import EvaluationData, RecommenderTrainer, RecommenderTrainingArguments
from trainers.training_data.next_item_windows import TrainingData, join_domains
from trainers.training_data.packed_sequences import PackedSequences

SIZES = [6, 6, 6]
NUM_ITEMS = 20
WIDTH = 5


def make_interactions(num_users=150):
    """Item i is followed by item i + 1: a model that learns that ranks the target first."""
    rng = np.random.default_rng(0)
    sequences = [(rng.integers(NUM_ITEMS) + np.arange(rng.integers(5, 16))) % NUM_ITEMS for _ in range(num_users)]
    ids = [f"item{row}" for row in range(NUM_ITEMS)]
    return Interactions.from_sequences([[ids[row] for row in sequence] for sequence in sequences], ids)


def make_data(interactions, content=True):
    rng = np.random.default_rng(0)
    codes = np.stack(np.unravel_index(rng.permutation(6**3)[:NUM_ITEMS], SIZES), axis=1)
    index = ItemIndex(SIZES, ItemLevelConfig(level_sizes=SIZES).level_offsets)
    vectors = rng.normal(size=(NUM_ITEMS, WIDTH)) if content else None
    index.assign(interactions.item_ids, codes, content=vectors)
    return EvaluationData(interactions, index)


def make_model(data, seed=0, **config):
    set_seed(seed)
    sizes = {"hidden_size": 32, "level_sizes": SIZES, "max_history": 5, "horizon": 1}
    if data.trie.content is not None:
        sizes["content_size"] = WIDTH
    model = ItemLevelForCausalLM(ItemLevelConfig(**{**sizes, **config}))
    model.set_catalogue(data.trie)
    return model


def make_args(folder, **changes):
    values = dict(per_device_train_batch_size=16, per_device_eval_batch_size=16, num_beams=10, max_history=5)
    values |= dict(save_strategy="no", disable_tqdm=True, use_cpu=True, logging_steps=1, seed=7)
    return RecommenderTrainingArguments(str(folder), dataloader_pin_memory=False, **{**values, **changes})


def training_of(data):
    content = None if data.trie.content is None else data.trie.content.numpy()
    return TrainingData(data.interactions.training_part(), data.token_table, content)


def make_trainer(folder, model=None, data=None, training=None, **changes):
    data = make_data(make_interactions()) if data is None else data
    model = make_model(data) if model is None else model
    return RecommenderTrainer(model, make_args(folder, **changes), training or training_of(data), data)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    data = make_data(make_interactions())
    model = make_model(data, num_item_residuals=NUM_ITEMS)
    trainer = make_trainer(folder, model, data, max_steps=250, learning_rate=0.01, logging_steps=50)
    trainer.train()
    trainer.save_model()
    return trainer, folder


@pytest.mark.parametrize("max_history", [4, 6])
def test_positions_of_another_history_are_refused(tmp_path, max_history):
    """What was saved could not be loaded."""
    with pytest.raises(ValueError, match=f"positions of 5 items, and max_history is {max_history}"):
        make_trainer(tmp_path, max_history=max_history)


@pytest.mark.parametrize("normalize_over", ["vocabulary", "items"])
def test_learns_successors(trained, tmp_path, normalize_over):
    trainer = trained[0]
    if normalize_over == "items":
        data = make_data(make_interactions(), content=False)
        model = make_model(data, normalize_over="items")
        trainer = make_trainer(tmp_path, model, data, max_steps=200, learning_rate=0.01, logging_steps=50)
        trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_ndcg@10"] > 0.9 and metrics["eval_num_users"] == 150
    assert trainer.model.config.max_history == 5


def test_losses_of_the_levels_are_logged(trained):
    entries = [entry for entry in trained[0].state.log_history if "loss" in entry]
    assert len(entries) == 5
    for entry in entries:
        levels = [entry[f"loss/level_{level}"] for level in range(3)]
        assert np.mean(levels) == pytest.approx(entry["loss"], abs=1e-3)
    assert entries[-1]["loss"] < entries[0]["loss"] / 2


def test_checkpoint_ranks_as_the_model_in_memory(trained):
    trainer, folder = trained
    data = trainer.eval_dataset
    histories = data.interactions.cases("test").histories()
    in_memory = trainer._ranker(data).rank(histories, 10)
    loaded = GenerativeRanker.from_pretrained(folder, data.interactions.item_ids, num_beams=10, batch_size=16)
    assert isinstance(loaded.model, ItemLevelForCausalLM) and loaded.max_history == 5
    np.testing.assert_array_equal(loaded.rank(histories, 10), in_memory)
    # in another order of the catalogue, and of fewer items
    ids = data.interactions.item_ids[::-1][:12]
    other = GenerativeRanker.from_pretrained(folder, ids, num_beams=12)
    assert torch.equal(other.trie.content, data.trie.content.flip(0)[:12])
    values = load_values(folder)
    assert values.auto_class == "AutoModelForCausalLM" and values.method == "item_level"
    assert values.num_items == NUM_ITEMS and values.hyperparameters["horizon"] == 1


def test_pipeline_recommends_from_the_folder(trained):
    trainer, folder = trained
    recommender = pipeline("item-recommendation", model=str(folder))
    history = ["item3", "item4", "item5"]
    found = recommender(history, top_k=3)
    tokenizer = UniversalItemTokenizer.from_pretrained(folder)
    batch = tokenizer([history], return_tensors="pt")
    seen = torch.tensor([[3, 4, 5]])
    output = load_model(folder).recommend(**batch, trie=tokenizer.trie, num_items=3, exclude=seen)
    assert [each["item_id"] for each in found] == output.item_ids[0] and found[0]["item_id"] == "item6"
    # an item that the index does not know any more is read by its codes
    tokenizer.remove_items(["item4"])
    assert recommender.model.recommend(**batch, trie=tokenizer.trie).scores.isfinite().any()


def test_new_items_after_training(trained):
    """They need content, have no embedding of their own, and are recommended."""
    folder = trained[1]
    tokenizer = UniversalItemTokenizer.from_pretrained(folder)
    model = load_model(folder)
    free = [code for code in np.ndindex(*SIZES) if code not in set(map(tuple, tokenizer.index.codes.tolist()))][:1]
    with pytest.raises(ValueError, match="give `content` of the new ones"):
        tokenizer.index.assign(["new"], np.array(free))
    tokenizer.index.assign(["new"], np.array(free), content=np.ones((1, WIDTH)))
    output = model.recommend(**tokenizer([["item1", "new"]], return_tensors="pt"), trie=tokenizer.trie, num_items=21)
    assert "new" in output.item_ids[0] and len(output.item_ids[0]) == 21


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_run_is_bit_exact(tmp_path, workers):
    """With dropout, targets of a horizon drawn anew in each epoch, and a checkpoint inside of an epoch."""

    def trainer(folder, workers):
        data = make_data(make_interactions())
        model = make_model(data, horizon=4, num_item_residuals=NUM_ITEMS)
        changes = dict(num_train_epochs=3, save_strategy="steps", save_steps=20, dataloader_num_workers=workers)
        return make_trainer(folder, model, data, **changes)

    whole = trainer(tmp_path, 0)
    per_epoch = -(-len(whole.train_dataset) // 16)
    assert per_epoch < 20 < 2 * per_epoch, "the checkpoint is inside of the second epoch"
    whole.train()
    resumed = trainer(tmp_path, workers)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-20"))
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_gradient_accumulation_equals_a_large_batch(tmp_path):
    """Of rows with the same number of targets; the loss is the mean of the steps' means."""
    rng = np.random.default_rng(0)
    ids = [f"item{row}" for row in range(NUM_ITEMS)]
    interactions = Interactions.from_sequences([[ids[row] for row in rng.integers(0, 20, 8)] for _ in range(64)], ids)
    data, norms = make_data(interactions), []
    for batch_size, accumulation in ((16, 1), (4, 4)):
        model = make_model(data, hidden_dropout=0.0, attention_dropout=0.0)
        trainer = make_trainer(
            tmp_path,
            model,
            data,
            max_steps=1,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
        )
        trainer.train()
        norms.append(trainer.state.log_history[0]["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_the_horizon_is_the_models_unless_the_arguments_have_one(tmp_path):
    data = make_data(make_interactions(20))
    for given, wanted in ((None, 3), (7, 7)):
        trainer = make_trainer(tmp_path, make_model(data, horizon=3), data, horizon=given)
        assert trainer.data_collator.horizon == trainer.model.config.horizon == wanted
        assert trainer.data_collator.seed == 7
        rows = trainer.train_dataset
        assert isinstance(rows, PackedSequences) and not rows.with_targets
    sizes = dict(level_sizes=SIZES, d_model=8, d_ff=8, d_kv=4, num_heads=2, num_layers=1)
    for causal in (False, True):
        t5 = UTGRecForConditionalGeneration(UTGRecConfig(**sizes, causal_encoder=causal))
        for given, wanted in ((None, 1), (4, 4)):
            assert make_trainer(tmp_path, t5, data, horizon=given).data_collator.horizon == wanted


def test_mismatches_are_errors_before_training(tmp_path):
    data = make_data(make_interactions(20))
    model = make_model(data)
    without = TrainingData(data.interactions.training_part(), data.token_table)
    with pytest.raises(ValueError, match="content vectors of 5 numbers, the training data have none"):
        make_trainer(tmp_path, model, data, without)
    wide = TrainingData(without.interactions, without.token_table, np.zeros((NUM_ITEMS, 9), np.float16))
    with pytest.raises(ValueError, match="the training data have vectors of 9 numbers"):
        make_trainer(tmp_path, model, data, wide)
    with pytest.raises(ValueError, match="Domains share one kind of content vectors"):
        join_domains({"a": wide, "b": without})
    with pytest.raises(ValueError, match="horizon must be at least 1"):
        make_args(tmp_path, horizon=0)
    more = dict(dataloader_num_workers=1, dataloader_persistent_workers=True)
    make_trainer(tmp_path, model, data, **more)
    with pytest.raises(ValueError, match="persistent"):
        make_trainer(tmp_path, make_model(data, horizon=2), data, **more)


def test_several_domains_share_one_kind_of_content(tmp_path):
    data = make_data(make_interactions(20))
    domains = {"a": training_of(data), "b": training_of(data)}
    trainer = make_trainer(tmp_path, make_model(data), data, domains, domain_temperature=2.0, max_steps=2)
    assert trainer.data_collator.content.shape == (2 * NUM_ITEMS, WIDTH)
    trainer.train()


def test_new_item_level_is_made_for_an_index(tmp_path):
    tokenizer = UniversalItemTokenizer(make_data(make_interactions(20)).item_index, "print", max_history=9)
    content = tokenizer.index.content
    tokenizer.index.set_content(content, "texts")
    arguments = ItemLevelArguments(hidden_size=16, item_residuals=True, tie_word_embeddings=True)
    model = new_item_level(arguments, tokenizer, seed=3)
    config = model.config
    assert (config.content_size, config.num_item_residuals, config.max_history) == (WIDTH, NUM_ITEMS, 9)
    assert config.item_tokenizer_fingerprint == "print" and config.tie_word_embeddings
    keys = model.residual_keys.tolist()
    assert keys == sorted(int(np.ravel_multi_index(code, SIZES)) for code in tokenizer.index.codes)
    np.testing.assert_allclose(model.content_mean, content.mean(0, np.float64), rtol=1e-5)
    again = new_item_level(arguments, tokenizer, seed=3)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    other = new_item_level(arguments, tokenizer, seed=4)
    assert not torch.equal(other.embed_tokens.weight, model.embed_tokens.weight), "another seed"
    without = new_item_level(ItemLevelArguments(item_residuals=False), tokenizer, seed=0)
    assert without.config.num_item_residuals == 0
    tokenizer.index.set_content(content)  # of an encoder that nobody knows
    tokenizer.check_recommender(model)
    tokenizer.index.set_content(content, "pictures")
    with pytest.raises(
        TokenizerMismatchError, match="encoder with fingerprint texts, those of the item index are of pi"
    ):
        tokenizer.check_recommender(model)
    tokenizer.index.set_content(None)
    assert new_item_level(ItemLevelArguments(content=False), tokenizer, 0).config.content_size is None
    with pytest.raises(ValueError, match="the item index has none"):
        new_item_level(arguments, tokenizer, 0)


def test_default_training_is_for_code_embeddings_that_start_small(tmp_path):
    args = ItemLevelTrainingArguments(str(tmp_path))
    assert (args.learning_rate, args.horizon, args.per_device_train_batch_size) == (5e-3, 10, 64)
    assert args.max_grad_norm == 0.33  # of a mean over three levels: 1 of their sum
    assert json.loads(args.to_json_string())["num_train_epochs"] == 30


@pytest.mark.parametrize(
    "values", [{"hidden_size": 7}, {"num_layers": 0}, {"content": False, "node_content": True}, {"hidden_dropout": 2}]
)
def test_what_no_recommender_can_be_is_known_with_its_arguments(values):
    with pytest.raises(StrictDataclassError, match="hidden_size|num_layers|node_content|hidden_dropout"):
        ItemLevelArguments(**values)
