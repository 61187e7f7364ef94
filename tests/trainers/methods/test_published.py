"""Facts that a result gives of its model: settings, and which of them differ from the published ones."""

import pytest

from modeling_utgrec import (
    RecBaseConfig,
    RecBaseForCausalLM,
    RQVAEConfig,
    SASRecConfig,
    SASRecForNextItem,
    UTGRecConfig,
    UTGRecForConditionalGeneration,
)
from trainers.methods import recbase, utgrec
from trainers.methods.published import Published, describe, settings_of
from trainers.methods.semantic_ids import SEMANTIC_IDS
from trainers.methods.sequential_methods import SEQUENTIAL
from trainers.recommender_trainer import RecommenderTrainingArguments


@pytest.fixture
def training(tmp_path):
    return RecommenderTrainingArguments(
        str(tmp_path), use_cpu=True, per_device_train_batch_size=8, gradient_accumulation_steps=4, learning_rate=3e-3
    )


def test_differences_are_all_and_only_those():
    published = Published("a paper", {"a": 1, "b": [1, 2], "c": "x", "d": True})
    assert published.differences({"a": 1, "b": [1, 2], "c": "y", "more": 5}) == {
        "c": {"here": "y", "published": "x"},
        "d": {"here": None, "published": True},
    }
    both = published | Published("another", {"e": 2})
    assert both.source == "a paper; another" and both.settings["e"] == 2 and both.settings["a"] == 1
    assert (published | published).source == "a paper"


def test_the_published_recommender_differs_in_nothing(training):
    """Of the paper's T5 with the paper's training, no difference is told."""
    training.per_device_train_batch_size, training.gradient_accumulation_steps = 256, 4
    config = UTGRecConfig()
    used = settings_of(config, training, "recommender.")
    used["recommender.batch_of"] = "pairs of a history and its next item"
    assert utgrec.PUBLISHED_RECOMMENDER.differences(used) == {}
    config.causal_encoder = True
    config.scale_decoder_outputs = False
    used |= settings_of(config, None, "recommender.")
    assert utgrec.PUBLISHED_RECOMMENDER.differences(used).keys() == {
        "recommender.causal_encoder",
        "recommender.scale_decoder_outputs",
    }


def test_the_batch_is_of_all_devices_and_steps_replace_epochs(training):
    used = settings_of(None, training, "recommender.")
    assert used["recommender.batch_size"] == 32 and used["recommender.num_train_epochs"] == 50
    assert used["recommender.lr_scheduler_type"] == "cosine"
    training.max_steps = 7
    assert settings_of(None, training)["num_train_epochs"] == "7 steps"


def test_every_published_setting_is_one_that_runs_have():
    """A name with a mistake in it would be told as a difference of every run."""
    names = set(settings_of(UTGRecConfig(), RecommenderTrainingArguments("x", use_cpu=True), "recommender."))
    names |= set(settings_of(RecBaseConfig.tiny(level_sizes=[4]), None, "recommender."))
    names |= {"recommender.batch_of", "recommender.pretrained_on_other_domains"}
    assert set(utgrec.PUBLISHED_RECOMMENDER.settings) | set(recbase.PUBLISHED_RECOMMENDER.settings) <= names
    no_run_has = {"batch_of", "output_dropout"}  # of FDSA's program: a difference of each row, told as one
    for name, method in SEQUENTIAL.items():
        loss = method.published.settings.get("loss", "ce")  # what one loss alone has is told with it
        fields = {"field_sizes": [2]} if method.variant.get("features") == "fields" else {}
        config = method.config_class(num_items=5, **{**method.variant, "loss": loss}, **fields)
        known = set(settings_of(config, RecommenderTrainingArguments("x", use_cpu=True)))
        known |= {"pretraining_epochs", "pretrained_on_other_domains"}  # of arguments, not of a configuration
        assert set(method.published.settings) <= known | no_run_has, name


def test_a_t5_is_described(training):
    sizes = dict(d_model=8, d_ff=8, d_kv=4, num_heads=2, num_layers=1)
    model = UTGRecForConditionalGeneration(
        UTGRecConfig(level_sizes=[4, 5], causal_encoder=True, normalize_over="items", loss_temperature=0.7, **sizes)
    )
    used = settings_of(model.config, training, "recommender.")
    report = {"items_sharing_codes": 3, "collision_rate": 0.1, "collisions": "digit", "seconds": 5}
    described = describe(model, used, utgrec.PUBLISHED_RECOMMENDER, report)
    million = f"{model.num_parameters() / 1e6:.2f} M parameters"
    assert described["variant"] == (
        f"T5 8 wide, 1+1 layers, causal encoder, loss temperature 0.7, normalised over items, codes 4+5, {million}"
    )
    assert described["architecture"]["recommender.d_model"] == 8
    assert described["architecture"]["parameters"] == model.num_parameters()
    assert described["losses"] == {"recommender.loss_temperature": 0.7, "recommender.normalize_over": "items"}
    assert described["training"]["recommender.learning_rate"] == 3e-3
    expected = {"level_sizes": [4, 5], "items_sharing_codes": 3, "collision_rate": 0.1, "collisions": "digit"}
    assert described["codebooks"] == expected
    assert described["differs_from_published"]["recommender.d_model"] == {"here": 8, "published": 128}
    told = {name for group in ("architecture", "losses", "training") for name in described[group]}
    assert "recommender.learning_rate" not in described["architecture"] and "recommender.d_ff" in told
    assert not told & {f"recommender.{name}" for name in ("level_sizes", "return_dict", "output_hidden_states")}
    used |= settings_of(RQVAEConfig(input_dim=8, num_levels=2), None, "tokenizer.")
    architecture = describe(model, used, utgrec.PUBLISHED_RECOMMENDER)["architecture"]
    assert architecture["tokenizer.num_levels"] == 2 and architecture["tokenizer.codebook_size"] == 256


def test_others_are_described_too():
    decoder = RecBaseForCausalLM(RecBaseConfig.tiny(level_sizes=[4, 5]))
    words = describe(decoder, {}, recbase.PUBLISHED_RECOMMENDER)["variant"]
    assert words.startswith(f"decoder {decoder.config.hidden_size} wide") and "codes 4+5" in words
    model = SASRecForNextItem(SASRecConfig(num_items=10, hidden_size=8, loss="bce"))
    described = describe(model, settings_of(model.config, None), SEQUENTIAL["sasrec-bce"].published)
    assert described["variant"].startswith("8 wide, 2 layers, dropout 0.5, loss bce, 0.0")
    assert "codebooks" not in described and described["losses"] == {"loss": "bce"}
    assert "loss" not in described["differs_from_published"] and "num_negatives" not in described["losses"]


def test_every_semantic_id_method_says_where_it_is_from():
    for method in SEMANTIC_IDS.values():
        assert method.published.source and all(name.startswith("tokenizer.") for name in method.published.settings)
