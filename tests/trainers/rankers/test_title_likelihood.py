"""Likelihoods of titles in batches against the language model's on one whole text at a time."""

import numpy as np
import pytest
import torch

from tokenization_items import Catalogue
from trainers.rankers.title_likelihood import NO_HISTORY, OPENING, SCORES, TitleLikelihood

TITLES = ["red stapler", "a guitar", "x", "stapler refills, 500 of them", "blue paper", "strings for a guitar"]
LIMIT = 192


@pytest.fixture(params=[("gpt2", False), ("llama", True)])
def language_model(request, make_language_model):
    return make_language_model(*request.param, limit=LIMIT)


def one_by_one(model, tokenizer, text: str, line: str) -> float:
    ids = torch.tensor([[0, *tokenizer(text + line, add_special_tokens=False)["input_ids"]]])
    count = len(tokenizer(line, add_special_tokens=False)["input_ids"])
    with torch.no_grad():
        log_probs = model(ids).logits[0, :-1].log_softmax(-1)
    return log_probs.gather(1, ids[0, 1:, None])[-count:].sum().item()


@pytest.mark.parametrize("batch_tokens", [1, 300, 8192])
def test_equals_whole_texts_one_by_one(language_model, batch_tokens):
    model, tokenizer = language_model
    likelihood = TitleLikelihood(model, tokenizer, TITLES, batch_tokens=batch_tokens)
    histories = [np.array([0]), np.array([1, 4]), np.array([2])]
    candidates = np.array([[3, 1, -1], [5, -1, -1], [0, 4, 2]])
    scores = likelihood.score(histories, candidates)
    assert scores.shape == (3, 3, len(SCORES)) and (scores[candidates < 0] == -np.inf).all()
    for user, row in np.argwhere(candidates >= 0):
        line = f"- {TITLES[candidates[user, row]]}\n"
        history = "".join(f"- {TITLES[item]}\n" for item in histories[user])
        total = one_by_one(model, tokenizer, OPENING + history, line)
        alone = one_by_one(model, tokenizer, NO_HISTORY, line)
        expected = [total, total / len(line.encode()), total - alone]
        np.testing.assert_allclose(scores[user, row], expected, atol=2e-3, rtol=1e-4)


def test_a_long_history_loses_its_oldest_titles(language_model):
    likelihood = TitleLikelihood(*language_model, TITLES)
    longest = np.array([3, 1, 0, 5] * 6)
    prompt = likelihood._prompt(longest)
    assert LIMIT - 2 * 64 < len(prompt) <= LIMIT - 64
    kept = next(n for n in range(1, 24) if len(likelihood._prompt(longest[-n:])) == len(prompt))
    one = np.array([[2, 4]])
    scores = [likelihood.score([history], one) for history in (longest, longest[-kept:])]
    np.testing.assert_array_equal(*scores)


def test_from_a_folder_with_items_without_title(language_model, tmp_path):
    model, tokenizer = language_model
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    records = [{"item_id": "a", "title": "red stapler"}, {"item_id": "b", "title": "", "description": "a guitar"}]
    likelihood = TitleLikelihood.from_pretrained(tmp_path, Catalogue.from_records(records))
    same = TitleLikelihood(model, tokenizer, TITLES[:2])
    asked = [np.array([0])], np.array([[1]])
    np.testing.assert_allclose(likelihood.score(*asked), same.score(*asked), rtol=1e-5)
    records.append({"item_id": "c", "title": " ", "description": ""})
    with pytest.raises(ValueError, match=r"1 of 3 items have neither title nor text .* rows 2\."):
        TitleLikelihood.from_pretrained(tmp_path, Catalogue.from_records(records))


def test_a_model_that_reads_too_little(language_model):
    model, tokenizer = language_model
    model.config.max_position_embeddings = 64
    with pytest.raises(ValueError, match="reads 64 tokens: too few"):
        TitleLikelihood(model, tokenizer, TITLES)
