"""The beam search for models of transformers alone: equal to scoring every item, and what it refuses."""

import pytest
import torch
from transformers import (
    BertConfig,
    BertLMHeadModel,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    set_seed,
)

from modeling_utgrec.generation_plain import generate

VOCABULARY = 40
OFFSETS, SIZES = [11, 20, 27], [6, 7, 5]  # text before, between and behind the codes


def make_qwen3(**values) -> Qwen3ForCausalLM:
    set_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    heads = {"num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.3}
    return Qwen3ForCausalLM(Qwen3Config(vocab_size=VOCABULARY, **sizes, **heads, pad_token_id=0, **values)).eval()


def make_t5() -> T5ForConditionalGeneration:
    set_seed(0)
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "initializer_factor": 2.0}
    return T5ForConditionalGeneration(T5Config(vocab_size=VOCABULARY, **sizes, decoder_start_token_id=0)).eval()


def make_sids(num_items: int = 24) -> torch.Tensor:
    """Token ids of different semantic IDs."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randperm(SIZES[0] * SIZES[1] * SIZES[2], generator=generator)[:num_items]
    codes = torch.stack((rows // 35, rows // 5 % 7, rows % 5), dim=1)
    return codes + torch.tensor(OFFSETS)


def make_prompts() -> dict[str, torch.Tensor]:
    """Three prompts of text and codes, padded on the left."""
    generator = torch.Generator().manual_seed(2)
    mask = (torch.arange(9) >= torch.tensor([[0], [4], [2]])).long()
    return {"input_ids": torch.randint(1, VOCABULARY, (3, 9), generator=generator) * mask, "attention_mask": mask}


def every_score(model: PreTrainedModel, prompts: dict[str, torch.Tensor], sids: torch.Tensor) -> torch.Tensor:
    """Log-probability of each item after each prompt, `(prompts, items)`, one by one by the model's own forward."""
    scores = torch.empty(len(prompts["input_ids"]), len(sids))
    for user, (tokens, mask) in enumerate(zip(prompts["input_ids"], prompts["attention_mask"], strict=True)):
        prompt = tokens[mask == 1]
        for item, sid in enumerate(sids):
            with torch.no_grad():
                if model.config.is_encoder_decoder:
                    start = torch.cat((torch.tensor([0]), sid[:-1]))
                    logits = model(input_ids=prompt[None], decoder_input_ids=start[None]).logits[0]
                else:
                    logits = model(torch.cat((prompt, sid[:-1]))[None]).logits[0, len(prompt) - 1 :]
            scores[user, item] = logits.double().log_softmax(-1).gather(1, sid[:, None]).sum()
    return scores


@pytest.mark.parametrize("make", [make_qwen3, make_t5])
def test_it_ranks_all_items_as_scoring_each_does(make, float32_tolerance):
    model, sids, prompts = make(), make_sids(), make_prompts()
    found = generate(model, **prompts, trie=sids, num_return_sequences=len(sids), return_dict_in_generate=True)
    expected, order = every_score(model, prompts, sids).sort(dim=1, descending=True)
    assert torch.equal(found.sequences[:, -3:].view(3, len(sids), 3), sids[order])
    scores = found.sequences_scores.view(expected.shape) * 3  # a length penalty of 1, as generate's
    torch.testing.assert_close(scores, expected, **float32_tolerance(12, expected))
    before = torch.zeros(3, 1, dtype=torch.long) if model.config.is_encoder_decoder else prompts["input_ids"]
    assert torch.equal(found.sequences[:: len(sids), :-3], before)


def test_settings_are_those_of_the_generation_configuration():
    model, sids, prompts = make_qwen3(), make_sids(), make_prompts()
    best = generate(model, **prompts, trie=sids, num_beams=24, num_return_sequences=2)
    model.generation_config.num_beams, model.generation_config.num_return_sequences = 24, 2
    assert torch.equal(generate(model, **prompts, trie=sids.tolist()), best)


def test_excluded_items_give_way_to_the_next():
    model, sids, prompts = make_qwen3(), make_sids(), make_prompts()
    order = every_score(model, prompts, sids).argsort(dim=1, descending=True)
    exclude = torch.stack((order[:, 0], torch.tensor([-1, int(order[1, 2]), -1])), dim=1)
    found = generate(model, **prompts, trie=sids, num_beams=24, num_return_sequences=2, exclude=exclude)
    expected = torch.stack((order[:, 1], torch.stack((order[0, 2], order[1, 3], order[2, 2]))), dim=1)
    assert torch.equal(found[:, -3:].view(3, 2, 3), sids[expected])


def test_missing_items_are_padding():
    model, prompts = make_qwen3(), make_prompts()
    found = generate(
        model, **prompts, trie=make_sids(2), num_return_sequences=3, num_beams=3, return_dict_in_generate=True
    )
    assert (found.sequences.view(3, 3, -1)[:, 2, -3:] == 0).all()
    assert found.sequences_scores.view(3, 3).isfinite().tolist() == [[True, True, False]] * 3


def test_a_trie_is_read_anew_after_a_change():
    model, sids, prompts = make_qwen3(), make_sids(3), make_prompts()
    first = generate(model, **prompts, trie=sids, num_return_sequences=3)
    sids[0, 0] = OFFSETS[0] + (sids[0, 0] - OFFSETS[0] + 1) % SIZES[0]
    second = generate(model, **prompts, trie=sids, num_return_sequences=3)
    assert not torch.equal(first, second)
    assert {tuple(row) for row in second[:, -3:].tolist()} == {tuple(row) for row in sids.tolist()}


def test_a_trie_of_inference_mode_is_read_each_time():
    """Such a tensor does not count what is written to it."""
    model, prompts = make_qwen3(), make_prompts()
    with torch.inference_mode():
        sids = make_sids(3)
        generate(model, **prompts, trie=sids, num_return_sequences=3)
        sids[0, 0] = OFFSETS[0] + (sids[0, 0] - OFFSETS[0] + 1) % SIZES[0]
        found = generate(model, **prompts, trie=sids, num_return_sequences=3)
    assert {tuple(row) for row in found[:, -3:].tolist()} == {tuple(row) for row in sids.tolist()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"trie": None}, "needs `trie=`"),
        ({"trie": torch.tensor([[1, 2], [1, 2]])}, "more than one item"),
        ({"trie": torch.tensor([[1, VOCABULARY]])}, "vocabulary of the model 40"),
        ({"trie": torch.zeros(2, 3)}, "token ids of shape"),
        ({"trie": torch.tensor([[-1, 2]])}, "got -1"),
        ({"do_sample": True, "top_k": 3}, "leave out do_sample, top_k"),
        ({"max_new_tokens": 7}, "leave out max_new_tokens"),
        ({"normalize_over": "codes"}, "'vocabulary' or 'items'"),
        ({"attention_mask": torch.zeros(3, 9)}, "no prompt may be empty"),
        ({"input_ids": torch.full((3, 9), VOCABULARY)}, "outside of the ids"),
    ],
)
def test_what_cannot_be_searched_is_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        generate(make_qwen3(), **{**make_prompts(), "trie": make_sids(), **arguments})


def test_other_models_are_refused():
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    other = BertLMHeadModel(BertConfig(vocab_size=VOCABULARY, is_decoder=True, **sizes))
    with pytest.raises(TypeError, match="Qwen3ForCausalLM and T5"):
        generate(other, **make_prompts(), trie=make_sids())
    window = make_qwen3(use_sliding_window=True, sliding_window=4, max_window_layers=1)
    with pytest.raises(ValueError, match="sliding_attention"):
        generate(window, **make_prompts(), trie=make_sids())
