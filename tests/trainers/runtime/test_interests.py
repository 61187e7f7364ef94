"""Interests of MISSRec: clusters that are the same again, and whose weights a checkpoint's are."""

import numpy as np
import pytest
import torch

from modeling_utgrec import MISSRecConfig, MISSRecForNextItem
from trainers.data.interactions import Interactions
from trainers.evaluation.protocol import evaluate
from trainers.rankers.sequential import SequentialRanker
from trainers.runtime.callbacks import TimeLimitCallback
from trainers.runtime.interests import discover_interests
from trainers.sequential_trainer import SequentialTrainer, SequentialTrainingArguments

pytest.importorskip("faiss")
NUM_ITEMS = 12


def make_model(num_interests=5, **config):
    torch.manual_seed(0)
    sizes = {"num_items": NUM_ITEMS, "content_size": 6, "image_size": 4, "hidden_size": 8, "max_history": 5}
    model = MISSRecForNextItem(MISSRecConfig(**sizes, num_interests=num_interests, **config))
    image = torch.randn(NUM_ITEMS, 4)
    image[[1, 7]] = torch.nan
    return model.set_items(text=torch.randn(NUM_ITEMS, 6), image=image)


def make_interactions():
    rng = np.random.default_rng(0)
    ids = [f"i{row}" for row in range(NUM_ITEMS)]
    sequences = [(rng.integers(NUM_ITEMS) + np.arange(rng.integers(4, 9))) % NUM_ITEMS for _ in range(30)]
    return Interactions.from_sequences([[ids[row] for row in each] for each in sequences], ids)


def make_trainer(folder, model, callbacks=None, **changes):
    interactions = make_interactions()
    values = {"max_steps": 6, "per_device_train_batch_size": 32, "save_strategy": "no", "use_cpu": True, "seed": 3}
    values |= {"disable_tqdm": True, "dataloader_pin_memory": False, "report_to": [], "logging_steps": 1}
    args = SequentialTrainingArguments(str(folder), **{**values, **changes})
    return SequentialTrainer(model, args, interactions.training_part(), interactions, callbacks)


def found(model):
    return model.content_items.centroids.clone(), model.content_items.interests.clone()


def test_what_there_is_belongs_to_its_nearest_centroid():
    model = make_model()
    discover_interests(model, seed=1)
    first = found(model)
    items = model.content_items
    vectors, present = items.adapted(items.text, items.image), items.present
    assert present.sum() == 2 * NUM_ITEMS - 2 and len(model.points()[0]) == 22
    nearest = torch.cdist(vectors.double(), items.centroids.double().expand(NUM_ITEMS, -1, -1)).argmin(-1)
    assert torch.equal(items.interests, nearest.masked_fill(~present, -1))
    discover_interests(model, seed=1)
    assert all(torch.equal(*pair) for pair in zip(found(model), first, strict=True))
    with pytest.raises(ValueError, match="22 texts and images are fewer than 23 interests: lower num_interests"):
        discover_interests(make_model(23))


def test_what_is_evaluated_and_saved_are_the_interests_of_its_weights(tmp_path):
    model = make_model()
    trainer = make_trainer(tmp_path, model, eval_strategy="steps", eval_steps=3, save_strategy="steps", save_steps=3)
    trainer.train()
    for folder in (tmp_path / "checkpoint-3", tmp_path / "checkpoint-6"):
        saved = MISSRecForNextItem.from_pretrained(folder)
        stored = found(saved)
        discover_interests(saved, seed=3)
        assert torch.equal(found(saved)[1], stored[1])
        torch.testing.assert_close(found(saved)[0], stored[0])
    logged = [entry["eval_ndcg@10"] for entry in trainer.state.log_history if "eval_ndcg@10" in entry]
    ranker = SequentialRanker(MISSRecForNextItem.from_pretrained(tmp_path / "checkpoint-6"))
    assert evaluate(ranker, make_interactions(), "validation", long_tail=False)["ndcg@10"] == pytest.approx(logged[-1])


def test_where_time_runs_out_interests_are_of_the_weights_too(tmp_path):
    saving = {"eval_strategy": "steps", "eval_steps": 100, "save_strategy": "steps", "save_steps": 100}
    make_trainer(tmp_path, make_model(), [TimeLimitCallback(1e-9)], **saving, learning_rate=0.1).train()
    saved = MISSRecForNextItem.from_pretrained(tmp_path / "checkpoint-1")
    centroids, interests = found(saved)
    discover_interests(saved, seed=3)
    torch.testing.assert_close(found(saved)[0], centroids)
    assert torch.equal(found(saved)[1], interests)


def test_a_resumed_training_is_the_same(tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    whole = make_trainer(tmp_path, make_model(), **saving)
    whole.train()
    resumed = make_trainer(tmp_path, make_model(), **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for key, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[key], value), key


def test_a_part_of_the_catalogue_at_a_time_ranks_as_the_whole():
    model = make_model().eval()
    discover_interests(model)
    ranker = SequentialRanker(model)
    histories = [np.array([1, 2, 3]), np.array([7])]
    expected = ranker.rank(histories, NUM_ITEMS)
    scores = model.scores(ranker.scorer.encode(histories), model.candidates()).detach()
    assert (expected == scores.argsort(1, descending=True).numpy()).all()
    ranker.chunk_items = 5
    assert (ranker.rank(histories, NUM_ITEMS) == expected).all()
    few = np.array([[3, -1], [0, 11]])
    given = ranker.score(histories, few)
    assert given[0, 1] == -np.inf
    np.testing.assert_allclose(given[[0, 1, 1], [0, 0, 1]], scores[[0, 1, 1], [3, 0, 11]], rtol=1e-5)
