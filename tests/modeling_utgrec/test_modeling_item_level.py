"""The item-level recommender: configuration, sizes, loss, packed rows, content, saving, errors."""

import json
import math
import re

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, Trainer, TrainingArguments

from modeling_utgrec import ItemLevelConfig, ItemLevelForCausalLM, ItemRules, ItemTrie, generate_items
from modeling_utgrec.modeling_item_level import ItemLevelBlock
from modeling_utgrec.node_content import node_content

SIZES = [6, 8, 5]
CONTENT = 7
BOTH = {"read_codes": True, "write_codes": True}
# what codes are predicted by, and what their probabilities are normalised over
KINDS = {
    "codes, vocabulary": {"normalize_over": "vocabulary"},
    "codes, items": {"node_content": False, "normalize_over": "items"},
    "nodes": {},
    "nodes and codes": BOTH,
    "tied codes, vocabulary": {"tie_word_embeddings": True, "normalize_over": "vocabulary"},
    "nodes and tied codes": {"tie_word_embeddings": True},
}
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def make_model(seed: int = 0, **config) -> ItemLevelForCausalLM:
    """A small model whose states spread: initialised as it is, all codes would be nearly as likely."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "level_sizes": SIZES, "initializer_range": 0.3}
    model = ItemLevelForCausalLM(ItemLevelConfig(**{**sizes, **config})).eval()
    if model.config.num_item_residuals:
        torch.nn.init.normal_(model.residuals.weight[1:])
    torch.nn.init.normal_(model.lm_head.bias if model.config.write_codes else model.code_biases)
    if model.config.node_content:
        torch.nn.init.uniform_(model.node_scales, 0.5, 2)
    return model


def make_trie(num_items: int, content: int | None = None, seed: int = 0, **arguments) -> ItemTrie:
    generator = torch.Generator().manual_seed(seed)
    every = torch.cartesian_prod(*map(torch.arange, SIZES))
    codes = every[torch.randperm(len(every), generator=generator)[:num_items]]
    vectors = None if content is None else torch.randn(num_items, content, generator=generator)
    return ItemTrie(codes, SIZES, [2, 8, 16], content=vectors, **arguments)


def make_batch(trie: ItemTrie, lengths: list[int], seed: int = 0) -> dict[str, torch.Tensor]:
    """Histories of those numbers of items, padded on the right, and a label for each item."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(trie.num_items, (2, len(lengths), max(lengths)), generator=generator)
    real = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    tokens = trie.codes_of(rows) + torch.tensor(trie.level_offsets)
    batch = {
        "input_ids": (tokens[0] * real[..., None]).flatten(1),
        "attention_mask": real.long().repeat_interleave(trie.num_levels, dim=1),
        "labels": tokens[1].masked_fill(~real[..., None], -100).flatten(1),
    }
    if trie.content is not None:
        batch["content"] = trie.content[rows[0]] * real[..., None]
    return batch


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def everything(num_items: int = 30, **config) -> tuple[ItemLevelForCausalLM, ItemTrie]:
    """A model with all that it may have, and its catalogue."""
    trie = make_trie(num_items, CONTENT)
    model = make_model(content_size=CONTENT, num_item_residuals=num_items, depth_layers=2, **config)
    model.set_catalogue(trie)
    return model, trie


# configuration


def test_default_config():
    config = ItemLevelConfig()
    assert config.level_sizes == [256] * 3 and config.level_offsets == [2, 258, 514]
    assert config.vocab_size == 2 + 3 * 256 and config.intermediate_size == 4 * config.hidden_size
    assert (config.num_hidden_layers, config.num_attention_heads, config.is_encoder_decoder) == (2, 2, False)
    assert ItemLevelForCausalLM(ItemLevelConfig.tiny()).num_parameters() < 10**5


@pytest.mark.parametrize("arguments", [{}, {"num_levels": 2}, {"level_sizes": [4, 7, 5]}, {"content_size": 9}])
def test_config_round_trip(tmp_path, arguments):
    config = ItemLevelConfig(max_history=7, horizon=3, num_item_residuals=4, **arguments)
    config.save_pretrained(tmp_path)
    for loaded in (
        AutoConfig.from_pretrained(tmp_path),
        ItemLevelConfig(**config.to_dict()),
        ItemLevelConfig(**json.loads(config.to_json_string(use_diff=False))),
    ):
        assert isinstance(loaded, ItemLevelConfig)
        names = (
            "node_content",
            "read_codes",
            "write_codes",
            "normalize_over",
            "level_sizes",
            "level_offsets",
            "vocab_size",
            "num_levels",
            "max_history",
            "hidden_size",
            "horizon",
        )
        for name in (*names, "content_size", "num_item_residuals", "intermediate_size", "tie_word_embeddings"):
            assert getattr(loaded, name) == getattr(config, name), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocab_size": 1000}, "make 770"),
        ({"num_levels": 0}, "at least 1"),
        ({"num_levels": 2, "level_sizes": [4, 4, 4]}, "3 levels"),
        ({"level_sizes": [4, 0, 4]}, "at least one code"),
        ({"level_offsets": [2, 258], "vocab_size": 770}, "make 514"),
        ({"level_sizes": [4, 4], "level_offsets": [2]}, "differ in length"),
        ({"level_sizes": [4, 4], "level_offsets": [1, 5]}, "leave the first 2 tokens alone"),
        ({"max_history": 0}, "max_history"),
        ({"horizon": 0}, "horizon"),
        ({"content_size": 0}, "content_size"),
        ({"num_item_residuals": -1}, "num_item_residuals"),
        ({"num_item_residuals": 5, "num_levels": 8}, "63 bits"),
        ({"num_heads": 3}, "does not divide"),
        ({"hidden_dropout": 1.0}, "hidden_dropout"),
        ({"residual_dropout": -0.1}, "residual_dropout"),
        ({"normalize_over": "codes"}, "normalize_over"),
        ({"node_content": True}, "set `content_size`"),
        ({"node_content": True, "content_size": 4, "normalize_over": "vocabulary"}, "normalize_over='items'"),
        ({"read_codes": False}, "leave `read_codes` on"),
        ({"write_codes": False}, "leave `write_codes` on"),
        ({"write_codes": False, "content_size": 4, "node_content": False}, "leave `write_codes` on"),
        ({"tie_word_embeddings": True, "content_size": 4, "read_codes": False}, "turn both on"),
    ],
)
def test_config_contradictions(arguments, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        ItemLevelConfig(**arguments)


def test_content_predicts_by_default():
    without, with_content = ItemLevelConfig(), ItemLevelConfig(content_size=4)
    names = ("node_content", "read_codes", "write_codes", "normalize_over")
    assert [getattr(without, name) for name in names] == [False, True, True, "vocabulary"]
    assert [getattr(with_content, name) for name in names] == [True, False, False, "items"]
    config = ItemLevelConfig(content_size=4, normalize_over="vocabulary")
    assert [getattr(config, name) for name in names[:3]] == [False, True, True]
    config = ItemLevelConfig(content_size=4, tie_word_embeddings=True)
    assert [getattr(config, name) for name in names] == [True, True, True, "items"]


def test_config_types_and_kinds():
    with pytest.raises(StrictDataclassFieldValidationError):
        ItemLevelConfig(num_levels="3")
    with pytest.raises(ValueError, match="'item_level', found 'utgrec'"):
        ItemLevelConfig.from_dict({"model_type": "utgrec"})


# model


def test_initial_weights():
    model = ItemLevelForCausalLM(ItemLevelConfig(hidden_size=64, content_size=CONTENT, num_item_residuals=30, **BOTH))
    spread = {name: each.std().item() for name, each in model.named_parameters() if each.ndim == 2}
    for name in ("embed_tokens.weight", "lm_head.weight", "positions.weight", "content_projection.weight"):
        assert spread[name] == pytest.approx(0.02, rel=0.15), name
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name not in ("lm_head", "content_projection"):
            bound = module.in_features**-0.5  # uniform: of that bound and that deviation
            assert module.weight.abs().max().item() <= bound
            assert module.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05), name
    assert not model.residuals.weight.any() and (model.node_scales == 1).all()
    assert not ItemLevelForCausalLM(ItemLevelConfig(content_size=CONTENT)).code_biases.any()


def test_dropout_of_everything_leaves_what_was_there():
    """After the attention, and after the feed-forward layer."""
    config = ItemLevelConfig(hidden_size=16)
    block, states, mask = ItemLevelBlock(config).train(), torch.randn(2, 3, 16), torch.ones(2, 1, 3, 3).bool()
    for module in block.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 1.0
    assert torch.equal(block(states, mask), states)
    assert not torch.equal(block.eval()(states, mask), states)


@kinds
def test_tables_of_codes(kind):
    model, _ = everything(**kind)
    config, head = model.config, model.depth_head
    assert model.get_input_embeddings() is (model.embed_tokens if config.read_codes else head.codes)
    assert model.get_output_embeddings() is (model.lm_head if config.write_codes else None)
    table = torch.nn.Embedding(config.num_rows, config.hidden_size)
    model.set_input_embeddings(table)
    assert model.get_input_embeddings() is table and (head.codes is table) is not config.read_codes


def test_generation_is_of_one_item():
    settings = make_model().generation_config
    assert (settings.max_new_tokens, settings.eos_token_id) == (len(SIZES), None)


@kinds
def test_save_and_load_is_bit_equal(tmp_path, kind):
    model, trie = everything(**kind)
    batch = make_batch(trie, [3, 2])
    model.save_pretrained(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".py")  # the code travels along
    assert names == ["config.json", "generation_config.json", "model.safetensors"]
    for auto_class in (AutoModelForCausalLM, AutoModel):
        loaded, info = auto_class.from_pretrained(tmp_path, output_loading_info=True)
        assert isinstance(loaded, ItemLevelForCausalLM) and not loaded.training
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    if model.config.tie_word_embeddings:
        assert loaded.lm_head.weight is loaded.embed_tokens.weight
    found, expected = (each.recommend(batch["input_ids"], None, trie).scores for each in (loaded, model))
    assert torch.equal(found, expected)
    if model.config.normalize_over == "vocabulary":
        assert torch.equal(model(**batch).loss, loaded(**batch).loss)
    elif model.config.node_content:
        with pytest.raises(ValueError, match="call `set_catalogue`"):
            loaded(**batch)
        loaded.set_catalogue(trie)
        assert torch.equal(model(**batch).loss, loaded(**batch).loss)
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, loaded.state_dict()[name]), name
    with pytest.raises(ValueError, match="weights of ItemLevelForCausalLM are missing"):
        config = json.loads((tmp_path / "config.json").read_text()) | {"depth_layers": 3}
        (tmp_path / "config.json").write_text(json.dumps(config))
        ItemLevelForCausalLM.from_pretrained(tmp_path)


def norm(states: torch.Tensor, module: torch.nn.LayerNorm) -> torch.Tensor:
    centred = states - states.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + module.eps).sqrt()
    return scaled * module.weight.double() + module.bias.double()


def linear(states: torch.Tensor, module: torch.nn.Linear) -> torch.Tensor:
    product = states @ module.weight.double().T
    return product if module.bias is None else product + module.bias.double()


def feed_forward(states: torch.Tensor, layer) -> torch.Tensor:
    inner = linear(norm(states, layer.norm), layer.inner)
    return states + linear(inner * (1 + torch.erf(inner / math.sqrt(2))) / 2, layer.outer)


@torch.no_grad()
def by_hand(model: ItemLevelForCausalLM, trie: ItemTrie, history: list[int]) -> torch.Tensor:
    """Logits of every code on each level for each item of a trie, in float64 and in plain steps: `levels` tensors
    `(items, codes)`; -inf where there is no node."""
    config = model.config
    offsets = torch.tensor(config.level_offsets)
    units = torch.zeros(trie.num_items, 0)
    if config.content_size:
        centred = trie.content.double() - model.content_mean.double()
        units = centred / centred.norm(dim=1, keepdim=True)
    states = []
    for place, row in enumerate(history):
        state = model.positions.weight.double()[len(history) - 1 - place]
        if config.read_codes:
            state = state + model.embed_tokens.weight.double()[trie.codes[row] + offsets].mean(0)
        if config.content_size:
            state = state + linear(units[row], model.content_projection)
        if config.num_item_residuals:
            number = int(trie.codes[row] @ torch.tensor([8 * 5, 5, 1]))
            if number in model.residual_keys:
                state = state + model.residuals.weight.double()[model.residual_keys.tolist().index(number) + 1]
        states.append(state)
    states = torch.stack(states)
    for block in model.blocks:
        normed = norm(states, block.attention_norm)
        attention, width = block.attention, config.hidden_size // config.num_heads
        query, key, value = (linear(normed, each) for each in (attention.query, attention.key, attention.value))
        mixed = torch.zeros_like(states)
        for head in range(config.num_heads):
            own = slice(head * width, (head + 1) * width)
            for place in range(len(history)):
                scores = query[place, own] @ key[: place + 1, own].T / math.sqrt(width)
                mixed[place, own] = scores.softmax(0) @ value[: place + 1, own]
        states = states + linear(mixed, attention.output)
        states = feed_forward(states, block.feed_forward)
    prefixes = norm(states[-1], model.norm).expand(trie.num_items, -1)
    levels = []
    for level, (first, size) in enumerate(zip(config.level_offsets, config.level_sizes, strict=True)):
        written = prefixes + model.depth_head.levels.weight.double()[level]
        for layer in model.depth_head.layers:
            written = feed_forward(written, layer)
        written = norm(written, model.depth_head.norm)
        own = slice(first, first + size)
        if config.write_codes:
            logits = written @ model.lm_head.weight[own].double().T + model.lm_head.bias[own].double()
        else:
            logits = model.code_biases[own].double().repeat(trie.num_items, 1)
        if config.node_content:
            for row, code in ((row, code) for row in range(trie.num_items) for code in range(size)):
                below = (trie.codes[:, :level] == trie.codes[row, :level]).all(1) & (trie.codes[:, level] == code)
                vector = linear(torch.nn.functional.normalize(units[below].sum(0), dim=0), model.content_projection)
                product = written[row] @ vector * model.node_scales[level].double()
                logits[row, code] += product if below.any() else -torch.inf
        levels.append(logits)
        prefixes = prefixes + model.depth_head.codes.weight.double()[trie.codes[:, level] + first]
    return levels


@torch.no_grad()
def score_by_hand(model: ItemLevelForCausalLM, trie: ItemTrie, history: list[int]) -> torch.Tensor:
    """Log-probability of every item of a trie."""
    total = torch.zeros(trie.num_items, dtype=torch.float64)
    for level, logits in enumerate(by_hand(model, trie, history)):
        if model.config.normalize_over == "items":
            same = (trie.codes[:, None, :level] == trie.codes[None, :, :level]).all(-1)
            exists = torch.zeros(logits.shape, dtype=torch.bool)
            for row in range(trie.num_items):
                exists[row, trie.codes[same[row], level]] = True
            logits = logits.masked_fill(~exists, -torch.inf)
        total += logits.log_softmax(-1).gather(1, trie.codes[:, level, None]).squeeze(1)
    return total


def tokens_of(trie: ItemTrie, history: list[int]) -> torch.Tensor:
    return (trie.codes[history] + torch.tensor(trie.level_offsets)).view(1, -1)


@kinds
@pytest.mark.parametrize("dense_limit", [0, 2**20])
def test_scores_equal_an_independent_computation(kind, dense_limit, float32_tolerance):
    model, trie = everything(**kind)
    trie = ItemTrie(trie.codes, SIZES, trie.level_offsets, content=trie.content, dense_limit=dense_limit)
    for history in ([3], [7, 7, 2, 20, 11]):
        expected = score_by_hand(model, trie, history)
        if model.config.normalize_over == "items":
            assert expected.exp().sum().item() == pytest.approx(1)
        rows = torch.arange(trie.num_items)[None]
        found = model.score_items(tokens_of(trie, history), None, trie, rows)[0]
        torch.testing.assert_close(found.double(), expected, **float32_tolerance(12, expected))
        best = model.recommend(tokens_of(trie, history), None, trie, num_items=30)
        torch.testing.assert_close(best.scores[0], found.sort(descending=True).values)


@kinds
def test_loss_is_mean_negative_log_likelihood(kind):
    model, trie = everything(**kind)
    # positions are counted from the end of the row, and below every history is a row of its own
    model.positions.weight.data[:] = model.positions.weight[0]
    batch = make_batch(trie, [4, 1, 2])
    batch["labels"][0, 3:6] = -100
    tokens = batch["input_ids"].unflatten(1, (-1, 3)) - torch.tensor(trie.level_offsets)
    targets = batch["labels"].unflatten(1, (-1, 3)) - torch.tensor(trie.level_offsets)
    scores = []
    valid = torch.zeros(3, 12, 8, dtype=torch.bool)
    for user, length in enumerate([4, 1, 2]):
        for place in range(length):
            if batch["labels"][user, 3 * place] == -100:
                continue
            row = int(trie.find(targets[user, place]))
            history = trie.find(tokens[user, : place + 1]).tolist()
            scores.append(score_by_hand(model, trie, history)[row].item())
            for level in range(3):
                same = (trie.codes[:, :level] == targets[user, place, :level]).all(1)
                valid[user, 3 * place + level, trie.codes[same, level]] = True
    if model.config.normalize_over == "items" and not model.config.node_content:
        with pytest.raises(ValueError, match=r"needs valid_codes of shape \(3, 12, 8\), got None"):
            model(**batch)
        batch["valid_codes"] = valid
    output = model(**batch)
    assert len(scores) == 6
    assert output.loss.item() == pytest.approx(-sum(scores) / 6 / 3, abs=1e-5)
    assert output.level_losses.mean().item() == pytest.approx(output.loss.item())
    assert torch.equal(model(**batch, return_dict=False)[0], output.loss)


@kinds
def test_without_labels_the_loss_is_nothing(kind):
    model, trie = everything(**kind)
    batch = make_batch(trie, [2, 1])
    batch["labels"].fill_(-100)
    output = model(**batch, valid_codes=torch.zeros(2, 6, max(SIZES), dtype=torch.bool))
    assert output.loss.item() == 0 and output.level_losses.tolist() == [0] * 3
    assert not any(gradient.any() for gradient in gradients(model, output.loss).values())


@pytest.mark.parametrize("domains", [False, True])
def test_where_every_prefix_goes_on_in_one_way_there_is_nothing_to_learn(domains):
    model, trie = everything(1)
    if domains:
        model.set_catalogue(trie, [trie, trie])
    output = model.train()(**make_batch(trie, [2, 1]))
    assert output.level_losses.tolist() == [0] * 3
    assert not any(gradient.any() for gradient in gradients(model, output.loss).values())


def test_packed_rows_are_as_a_row_for_each_user(float32_tolerance):
    """The loss and every gradient; nothing leaks between the users of a row, whose positions are each one's own."""
    model, trie = everything()
    lengths = [4, 1, 2, 5, 3, 2]
    batch = make_batch(trie, lengths)
    fills = {"input_ids": 0, "attention_mask": 0, "labels": -100, "content": 0.0}
    packed = {name: [] for name in fills}
    for users in ([3, 1], [0, 2], [5, 4]):
        for name in fills:
            per_item = 1 if name == "content" else 3
            parts = [batch[name][user, : lengths[user] * per_item] for user in users]
            if name == "attention_mask":
                parts = [part * number for number, part in enumerate(parts, start=1)]
            packed[name].append(torch.cat(parts))
    packed = {
        name: torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=fills[name])
        for name, rows in packed.items()
    }
    loss, wanted = model(**packed).loss, model(**batch).loss
    torch.testing.assert_close(loss, wanted, **float32_tolerance(8))
    found, expected = gradients(model, loss), gradients(model, wanted)
    scale = max(tensor.abs().max().item() for tensor in expected.values())  # of a key's bias it is rounding alone
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], **float32_tolerance(8, scale), msg=name)


@kinds
def test_every_parameter_gets_a_gradient(ordered_sums, kind):
    if kind.get("normalize_over") == "items":
        pytest.skip("The loss needs valid_codes.")
    model, trie = everything(residual_dropout=0.0, **kind)
    loss = model.train()(**make_batch(trie, [4, 2])).loss
    with ordered_sums():
        loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_eval_mode_is_deterministic_and_training_mode_is_not():
    model, trie = everything()
    batch = make_batch(trie, [4, 2])
    assert torch.equal(model(**batch).loss, model(**batch).loss)
    model.train()
    assert not torch.equal(model(**batch).loss, model(**batch).loss)


def test_residuals_are_dropped_in_training_alone():
    model, trie = everything(hidden_dropout=0.0, attention_dropout=0.0, residual_dropout=0.8)
    batch = make_batch(trie, [4, 2])
    seen = []
    model.residuals.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    whole = model(**batch).loss
    real = batch["attention_mask"][:, ::3] != 0
    assert (seen[-1][real] > 0).all() and not seen[-1][~real].any()
    dropped = [model.train()(**batch).loss.item() for _ in range(6)]
    known = torch.stack(seen[1:])[:, real] > 0  # 36, each with probability .2
    assert len(set(dropped)) > 1 and 0 < known.float().mean().item() < 0.5
    assert torch.equal(model.eval()(**batch).loss, whole)


@pytest.mark.parametrize("side", ["left", "right"])
def test_batching_and_padding_do_not_matter(side, float32_tolerance):
    model, trie = everything()
    lengths = [4, 2, 1]
    batch = make_batch(trie, lengths)
    del batch["labels"]
    if side == "left":
        for user, length in enumerate(lengths):
            for name, per_item in (("input_ids", 3), ("attention_mask", 3), ("content", 1)):
                batch[name][user] = batch[name][user].roll((4 - length) * per_item, dims=0)
        batch["input_ids"][1, 0] = 5  # padding is never read
    together = model(**batch).last_hidden_state
    scores = model.recommend(batch["input_ids"], batch["attention_mask"], trie, num_items=5).scores
    for user, length in enumerate(lengths):
        items = slice(4 - length, 4) if side == "left" else slice(length)
        tokens = slice(3 * items.start if items.start else 0, 3 * items.stop)
        history = batch["input_ids"][user : user + 1, tokens]
        alone = model(history, content=batch["content"][user : user + 1, items]).last_hidden_state
        torch.testing.assert_close(alone[0], together[user, items], **float32_tolerance(8, together))
        own = model.recommend(history, None, trie, num_items=5).scores[0]
        torch.testing.assert_close(own, scores[user], **float32_tolerance(12, scores))


@pytest.mark.parametrize("padding", [(1, 2), (2, 0), (0, 1)])
def test_padding_that_is_no_whole_items_changes_nothing(padding, float32_tolerance):
    model, trie = everything()
    batch = make_batch(trie, [4, 2, 1])
    batch = batch["input_ids"], batch["attention_mask"]
    wanted = model.recommend(*batch, trie, num_items=5).scores
    scores = model.recommend(*(torch.nn.functional.pad(each, padding) for each in batch), trie, num_items=5).scores
    torch.testing.assert_close(scores, wanted, **float32_tolerance(12, wanted))


def test_no_item_reads_later_ones(float32_tolerance):
    model, trie = everything(max_history=4)
    model.positions.weight.data[:] = model.positions.weight[0]  # which are counted from the end
    batch = make_batch(trie, [4])
    whole = model(batch["input_ids"], content=batch["content"]).last_hidden_state
    part = model(batch["input_ids"][:, :6], content=batch["content"][:, :2]).last_hidden_state
    torch.testing.assert_close(part, whole[:, :2], **float32_tolerance(8, whole))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype, monkeypatch):
    model, trie = everything()
    batch = make_batch(trie, [3, 1])
    rows = torch.arange(trie.num_items).expand(2, -1)
    expected, losses_before = model.score_items(batch["input_ids"], None, trie, rows), model(**batch).level_losses
    model.to(dtype)
    output = model.recommend(batch["input_ids"], None, trie, num_items=30, num_beams=30)
    assert output.scores.dtype == torch.float32
    torch.testing.assert_close(output.scores, expected.gather(1, output.item_rows), atol=0.5, rtol=0.05)
    losses = model(**batch).level_losses
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, losses_before, atol=0.1, rtol=0.05)


def test_autocast():
    model, trie = everything()
    batch = make_batch(trie, [3, 1])
    expected = model(**batch).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.train(False)(**batch).loss
        loss.backward()
    torch.testing.assert_close(loss.float(), expected, atol=0.1, rtol=0.05)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_what_is_kept_for_the_next_search_is_not_of_autocast():
    model, trie = everything()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model.node_vectors(trie)
    assert all(map(torch.equal, found, everything()[0].node_vectors(trie)))


def test_trainer_runs_and_does_not_scale_gradients_twice(tmp_path):
    """Accumulating two half batches must give the gradient of the whole batch."""
    norms = []
    for batch_size, steps in ((4, 1), (2, 2)):
        model, trie = everything(hidden_dropout=0.0, attention_dropout=0.0, residual_dropout=0.0)
        batch = make_batch(trie, [4, 4, 4, 4])
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=steps,
            max_steps=1,
            logging_steps=1,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
        )
        dataset = [{name: tensor[user] for name, tensor in batch.items()} for user in range(4)]
        trainer = Trainer(model=model, args=arguments, train_dataset=dataset)
        trainer.train()
        norms.append(trainer.state.log_history[0]["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_overfits_and_recommends_the_targets():
    model, trie = everything(initializer_range=0.02, hidden_dropout=0.0, attention_dropout=0.0)
    batch = make_batch(trie, [4, 4, 4, 4, 4, 4])
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
    output = model.eval().recommend(batch["input_ids"], None, trie, num_items=3)
    assert model(**batch).loss.item() < 0.1
    targets = batch["labels"].unflatten(1, (-1, 3))[:, -1] - torch.tensor(trie.level_offsets)
    assert torch.equal(trie.codes[output.item_rows[:, 0]], targets)


# catalogue and content


def test_new_items_have_vectors_at_once(float32_tolerance):
    """A node's content is that of all items below it, so those that were there before have other scores."""
    model, trie = everything()
    history = tokens_of(trie, [3, 9])
    before = model.score_items(history, None, trie, torch.arange(30)[None])[0]
    every = torch.cartesian_prod(*map(torch.arange, SIZES))
    free = every[trie.find(every) < 0]
    grown = trie.add_items(free[[0, 50, 99]], content=torch.randn(3, CONTENT))
    for each in (grown, trie):  # one after the other, as vectors are kept for the next search
        rows = torch.arange(each.num_items)[None]
        expected = score_by_hand(model, each, [3, 9])
        found = model.score_items(history, None, each, rows)[0]
        torch.testing.assert_close(found.double(), expected, **float32_tolerance(12, expected))
        best = model.recommend(history, None, each, num_items=each.num_items).scores[0]
        torch.testing.assert_close(best, found.sort(descending=True).values)
    assert torch.equal(found, before)


def test_changed_weights_are_seen_by_the_next_search():
    model, trie = everything()
    history, rows = tokens_of(trie, [3, 9]), torch.arange(30)[None]
    for change in (
        lambda: model.content_projection.weight.data.mul_(2),
        lambda: model.node_scales.data.mul_(2),
        lambda: model.content_mean.add_(0.5),
        lambda: model.double(),
    ):
        before = model.score_items(history, None, trie, rows)
        change()
        found = model.score_items(history, None, trie, rows)
        assert not torch.equal(found, before)
        torch.testing.assert_close(found[0].double(), score_by_hand(model, trie, [3, 9]), atol=1e-4, rtol=1e-5)


def test_items_without_content_and_nodes_of_them_alone():
    """They have a vector of zeros, and their biases."""
    model, trie = everything()
    content = trie.content.clone()
    alone = trie.codes[:, 0] == trie.codes[0, 0]
    content[alone] = 0
    trie = ItemTrie(trie.codes, SIZES, trie.level_offsets, content=content)
    levels = node_content(trie, model.content_mean)
    codes = trie.codes[:, 0].unique()
    assert not levels[0][codes == trie.codes[0, 0]].any()
    torch.testing.assert_close(levels[0][codes != trie.codes[0, 0]].norm(dim=1), torch.ones(len(codes) - 1))
    scores = model.recommend(tokens_of(trie, [0]), None, trie, num_items=30, num_beams=40).scores
    assert scores.isfinite().all() and scores.exp().sum().item() == pytest.approx(1)


def test_new_items_have_content_and_no_residual(float32_tolerance):
    model, trie = everything(node_content=False, normalize_over="vocabulary")
    history = [3, 9]
    before = model.score_items(tokens_of(trie, history), None, trie, torch.arange(30)[None])[0]
    every = torch.cartesian_prod(*map(torch.arange, SIZES))
    free = every[trie.find(every) < 0][:2]
    grown = trie.add_items(free, content=torch.randn(2, CONTENT))
    after = model.score_items(tokens_of(grown, history), None, grown, torch.arange(32)[None])[0]
    torch.testing.assert_close(after[:30], before, **float32_tolerance(12, before))
    assert after[30:].isfinite().all()
    # a history with a new item: its content is read, and no other item's residual
    model.residuals.weight.data[1:] += 100
    tokens = tokens_of(grown, [30])
    states = model(tokens, content=grown.content[None, [30]]).last_hidden_state
    model.residuals.weight.data.zero_()
    assert torch.equal(model(tokens, content=grown.content[None, [30]]).last_hidden_state, states)
    assert not torch.equal(model(tokens, content=grown.content[None, [31]]).last_hidden_state, states)
    found = model.recommend(tokens, None, grown, num_items=32).scores
    other = model.recommend(tokens, None, trie, num_items=30).scores
    assert found.isfinite().all() and other.isfinite().all()  # read by its codes alone where it is not known


def test_the_order_of_the_catalogue_does_not_matter(assert_same_ranking):
    """Items keep content and embedding of their own in another order, and when others are removed."""
    model, trie = everything()
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    other = ItemTrie(trie.codes[order], SIZES, trie.level_offsets, content=trie.content[order])
    history = tokens_of(trie, [int(order[4]), int(order[11])])
    expected = model.score_items(history, None, trie, order[None])
    assert torch.equal(model.score_items(history, None, other, torch.arange(30)[None]), expected)
    model, trie = everything(normalize_over="vocabulary")  # else an item's probability is one among those that exist
    order = order[:20]
    other = ItemTrie(trie.codes[order], SIZES, trie.level_offsets, content=trie.content[order])
    histories = [tokens_of(trie, [int(order[4]), int(order[11])]), tokens_of(trie, [int(order[0])])]
    for tokens in histories:
        expected = model.score_items(tokens, None, trie, order[None])
        found = model.score_items(tokens, None, other, torch.arange(20)[None])
        assert torch.equal(found, expected)


@pytest.mark.parametrize("width", [8, 64])  # below and above that of the content
def test_a_network_may_start_as_the_likeness_to_the_history(tmp_path, width):
    torch.manual_seed(0)
    sizes = {"hidden_size": width, "level_sizes": [4, 10], "content_size": 24, "depth_layers": 2, "node_counts": True}
    model = ItemLevelForCausalLM(ItemLevelConfig(**sizes)).eval()
    codes = torch.stack([torch.arange(40) // 10, torch.arange(40) % 10], dim=1)
    trie = ItemTrie(codes, [4, 10], [2, 6], content=torch.randn(40, 24) * torch.arange(1, 25).sqrt() + 1)
    model.set_catalogue(trie)
    unit = torch.nn.functional.normalize(trie.content - trie.content.mean(0), dim=1)
    history = codes[[7, 28, 3]].add(torch.tensor([2, 6])).view(1, -1)

    def state():
        with torch.no_grad():
            return model(history, content=trie.content[None, [7, 28, 3]]).last_hidden_state[0, -1]

    def correlation():
        kept = model.content_projection(unit) if width == 8 else unit
        liked = kept @ (kept[3] / kept[3].norm() + (kept / kept.norm(dim=1, keepdim=True))[[7, 28, 3]].mean(0))
        return torch.corrcoef(torch.stack([model.content_projection(unit) @ state(), liked]))[0, 1].item()

    before = correlation()
    model.start_from_content()
    assert correlation() > 0.97 and correlation() > before + 0.1
    # no projection onto so many dimensions keeps more of what the items differ by
    kept = torch.linalg.svdvals(model.content_projection(unit).detach())[:width]
    most = torch.linalg.svdvals(unit)[:width]
    torch.testing.assert_close(kept[:24] / kept.norm(), most / most.norm(), rtol=1e-3, atol=1e-4)
    labels = codes[[28, 3, 9]].add(torch.tensor([2, 6])).view(1, -1)
    model(history, content=torch.randn(1, 3, 24), labels=labels).loss.backward()
    outers = [value for name, value in model.named_parameters() if name.endswith("outer.weight")]
    assert len(outers) == 4 and not any(each.any() for each in outers)
    assert all(each.grad.any() for each in outers), "they start at zero and do not stay there"
    assert model.blocks[0].attention.query.weight.grad.any()
    torch.nn.init.normal_(model.blocks[0].feed_forward.outer.weight)
    model.save_pretrained(tmp_path)
    loaded = ItemLevelForCausalLM.from_pretrained(tmp_path)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("content", [torch.zeros(12, 4), torch.ones(12, 4)])
def test_without_content_a_start_is_finite(content):
    codes = torch.arange(12)[:, None]
    model = ItemLevelForCausalLM(ItemLevelConfig(hidden_size=8, level_sizes=[12], content_size=4)).eval()
    model.set_catalogue(ItemTrie(codes, [12], [2], content=content))
    model.start_from_content()
    assert all(each.isfinite().all() for each in model.parameters())
    assert model(codes[:3].T + 2, content=content[None, :3]).last_hidden_state.isfinite().all()


def test_starting_from_content_needs_a_catalogue():
    for model in (ItemLevelForCausalLM(ItemLevelConfig(content_size=4)), ItemLevelForCausalLM(ItemLevelConfig())):
        with pytest.raises(ValueError, match="call `set_catalogue` before"):
            model.start_from_content()
    with pytest.raises(StrictDataclassClassValidationError, match="`node_counts` are of nodes' content"):
        ItemLevelConfig(node_counts=True)


@pytest.mark.parametrize("write_codes", [False, True])
def test_with_node_counts_equal_items_are_equally_likely(write_codes):
    """Whatever the tree; without, an item alone with its first code is as likely as ten that share theirs."""
    torch.manual_seed(0)
    codes = torch.tensor([[0, row] for row in range(10)] + [[1, 0], [2, 1], [2, 2]])
    trie = ItemTrie(codes, [4, 10], [2, 6], content=torch.randn(1, 5).expand(13, 5))
    history = torch.tensor([[2, 6, 3, 6]])
    for counts in (True, False):
        config = {"hidden_size": 8, "level_sizes": [4, 10], "content_size": 5, "node_counts": counts}
        model = ItemLevelForCausalLM(ItemLevelConfig(**config, write_codes=write_codes)).eval()
        if write_codes:
            torch.nn.init.zeros_(model.lm_head.weight)
            torch.nn.init.zeros_(model.lm_head.bias)
        model.set_catalogue(trie)
        with torch.no_grad():
            found = model.score_items(history, None, trie, torch.arange(13)[None])[0].exp()
            labels = trie.codes[[0, 10]].add(torch.tensor([2, 6])).view(1, -1)
            losses = model(history, content=trie.content[None, :2], labels=labels).level_losses.sum()
        expected = torch.full((13,), 1 / 13) if counts else torch.tensor([1 / 30] * 10 + [1 / 3] + [1 / 6] * 2)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(losses, -expected[[0, 10]].log().mean())
        ranked = model.recommend(history, torch.ones_like(history), trie, num_items=13, num_beams=13)
        torch.testing.assert_close(ranked.scores.exp()[0].sort().values, expected.sort().values)


def test_losses_of_several_domains_are_each_over_its_own_items(float32_tolerance):
    every = make_trie(30, CONTENT)
    parts = [slice(0, 14), slice(13, 30)]  # an item of both is the first one's
    tries = [ItemTrie(every.codes[rows], SIZES, [2, 8, 16], content=every.content[rows]) for rows in parts]
    model = make_model(content_size=CONTENT)
    batches = [make_batch(trie, [4, 2], seed) for seed, trie in enumerate(tries)]
    shared = every.codes[13] + torch.tensor(every.level_offsets)
    is_shared = (batches[1]["labels"].view(-1, 3) == shared).all(1).view(2, -1).repeat_interleave(3, dim=1)
    batches[1]["labels"].masked_fill_(is_shared, -100)
    model.set_catalogue(every, tries)
    mean, total = model.content_mean.clone(), 0.0
    loss = model(**{name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}).level_losses
    counts = [int((batch["labels"] != -100).sum()) for batch in batches]
    for trie, batch, count in zip(tries, batches, counts, strict=True):
        model.set_catalogue(trie)
        model.content_mean.copy_(mean)
        model._catalogues = [(trie, node_content(trie, mean))]
        total = total + model(**batch).level_losses * count
    torch.testing.assert_close(loss, total / sum(counts), **float32_tolerance(12, loss))
    model.set_catalogue(every)
    model.content_mean.copy_(mean)
    together = model(**{name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}).level_losses
    assert (together > loss + 1e-3).any(), "over the items of all domains there is more to choose from"
    model.set_catalogue(every, tries)
    owner = model._domains[1][(model._domains[0] == model._keys(every.codes[13:14])).nonzero()[0, 0]]
    assert int(owner) == 0


def test_content_is_centred_and_of_length_one(float32_tolerance):
    model, trie = everything()
    torch.testing.assert_close(model.content_mean, trie.content.mean(0), **float32_tolerance(4))
    batch = make_batch(trie, [2])
    shifted = model.content_mean + 3 * (batch["content"] - model.content_mean)
    states = model(batch["input_ids"], content=batch["content"]).last_hidden_state
    found = model(batch["input_ids"], content=shifted).last_hidden_state
    torch.testing.assert_close(found, states, **float32_tolerance(8, states))
    # zero stands for no content, whatever the mean is
    nothing = model._project(torch.zeros(1, 1, CONTENT))
    assert not nothing.any()


def test_levels_that_share_tokens_have_embeddings_of_their_own(tmp_path):
    """As those of UTGRec's item tokenizer: the same model on other tokens."""
    model, trie = everything(**BOTH)
    shared = ItemLevelForCausalLM(
        ItemLevelConfig(**{**model.config.to_dict(), "level_offsets": [2, 8, 8], "vocab_size": None})
    ).eval()
    assert shared.config.vocab_size == 16
    shared.load_state_dict(model.state_dict())
    other = ItemTrie(trie.codes, SIZES, [2, 8, 8], content=trie.content)
    batch = make_batch(trie, [3, 1])
    tokens = {}
    for name, nothing in (("input_ids", 0), ("labels", -100)):
        moved = batch[name].unflatten(1, (-1, 3)) + torch.tensor(other.level_offsets) - torch.tensor([2, 8, 16])
        tokens[name] = torch.where(batch[name] == nothing, nothing, moved.flatten(1))
    tokens["input_ids"][1, 3:] = 15  # padding, which is never read
    shared.set_catalogue(other)
    assert torch.equal(shared(**{**batch, **tokens}).loss, model(**batch).loss)
    found = shared.recommend(tokens["input_ids"], batch["attention_mask"], other, num_items=30)
    expected = model.recommend(batch["input_ids"], batch["attention_mask"], trie, num_items=30)
    assert torch.equal(found.scores, expected.scores) and torch.equal(found.item_rows, expected.item_rows)
    shared.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).level_offsets == [2, 8, 8]


def test_generate_gives_what_recommend_gives():
    model, trie = everything()
    batch = make_batch(trie, [3, 1])
    del batch["labels"], batch["content"]
    found = model.generate(
        **batch,
        custom_generate=generate_items,
        trie=trie,
        num_beams=8,
        num_return_sequences=4,
        length_penalty=0.0,
        return_dict_in_generate=True,
    )
    expected = model.recommend(**batch, trie=trie, num_items=4, num_beams=8)
    torch.testing.assert_close(found.sequences_scores.view(2, 4), expected.scores)
    codes = found.sequences[:, -3:] - torch.tensor(trie.level_offsets)
    assert torch.equal(trie.find(codes).view(2, 4), expected.item_rows)
    with pytest.raises(ValueError, match="generates whole items: call `recommend`"):
        model.generate(**batch)


# errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_ids": torch.tensor([[2, 9, 18], [2, 21, 18]])}, r"input_ids\[1, 1\] is 21"),
        ({"input_ids": torch.tensor([[2, 9, 18, 3]])}, "has 4 tokens, which is no multiple of 3"),
        ({"input_ids": torch.tensor([[2, 9, 18], [0, 0, 0]])}, "history of user 1 of the batch is empty"),
        ({"input_ids": torch.tensor([[2, 9, 18]]).repeat(1, 21)}, "has 63 tokens, the recommender reads 20 items"),
        ({"num_items": 0}, "at least 1"),
        ({"exclude": torch.tensor([[0, 30]])}, r"exclude\[0, 1\] is 30"),
        ({"trie": make_trie(30)}, r"reads content vectors of 7 numbers, and the trie has none"),
        ({"trie": make_trie(30, 9)}, r"content vectors of 7 numbers, those of the trie have 9"),
        ({"trie": ItemTrie(torch.tensor([[0, 1, 2]]), SIZES, [2, 8, 8])}, r"expected .*\[2, 8, 16\]"),
    ],
)
def test_recommend_names_bad_input(arguments, message):
    model, trie = everything()
    history = torch.tensor([[2, 9, 18]])
    with pytest.raises(ValueError, match=message):
        model.recommend(**{"input_ids": history, "attention_mask": None, "trie": trie, **arguments})


def test_forward_names_bad_input():
    model, trie = everything(max_history=3)
    batch = make_batch(trie, [3, 2])
    with pytest.raises(ValueError, match="no whole items"):
        model(batch["input_ids"][:, :4])
    with pytest.raises(ValueError, match=r"expected content of shape \(2, 3, 7\), got None"):
        model(batch["input_ids"])
    with pytest.raises(ValueError, match=r"labels have shape \(2, 3\)"):
        model(**{**batch, "labels": batch["labels"][:, :3]})
    every = torch.cartesian_prod(*map(torch.arange, SIZES))
    unknown = every[trie.find(every) < 0][0] + torch.tensor(trie.level_offsets)
    with pytest.raises(ValueError, match=re.escape(f"No item of the catalogue has the tokens {unknown.tolist()}")):
        model(**{**batch, "labels": torch.cat((unknown, batch["labels"][0, 3:])).expand(2, -1)})
    with pytest.raises(ValueError, match="A history has 4 items, the model reads 3"):
        model(tokens_of(trie, [1, 2, 3, 4]), content=trie.content[None, :4])
    with pytest.raises(ValueError, match="reads no content"):
        make_model()(**batch)


def test_a_catalogue_of_another_size_is_an_error():
    model, _ = everything()
    with pytest.raises(ValueError, match="embeddings of their own for 30 items, the catalogue has 29"):
        model.set_catalogue(make_trie(29, CONTENT))
    with pytest.raises(ValueError, match="the trie has none"):
        model.set_catalogue(make_trie(30))


def test_recommend_ignores_dropout_and_restores_modes():
    model, trie = everything()
    history = tokens_of(trie, [1, 2])
    expected = model.recommend(history, None, trie, num_items=3)
    model.train()
    model.blocks[0].eval()
    output = model.recommend(history, None, trie, num_items=3)
    assert torch.equal(output.scores, expected.scores)
    assert model.training and model.blocks[1].training and not model.blocks[0].training


# search


@pytest.mark.parametrize("seed", range(6))
def test_recommend_equals_brute_force_under_rules(seed, assert_same_ranking):
    """Random models, catalogues, lists and rules; the beam is as wide as any level."""
    rng = torch.Generator().manual_seed(seed)
    num_items = int(torch.randint(3, 60, (1,), generator=rng))
    trie = make_trie(num_items, CONTENT, seed)
    kind = list(KINDS.values())[seed]
    model = make_model(seed, content_size=CONTENT, num_item_residuals=num_items, **kind)
    model.set_catalogue(trie)
    batch = make_batch(trie, [3, 1, 5], seed)
    deny = torch.rand(3, num_items, generator=rng) < 0.4
    exclude = torch.randint(-1, num_items, (3, 4), generator=rng)
    history = [batch["input_ids"][user, : 3 * length] for user, length in enumerate([3, 1, 5])]
    rows = [trie.find(each.view(-1, 3) - torch.tensor(trie.level_offsets)).tolist() for each in history]
    scores = torch.stack([score_by_hand(model, trie, each) for each in rows]).float()
    gone = deny.clone()
    for user in range(3):
        gone[user, exclude[user][exclude[user] >= 0]] = True
    for rules, removed in ((None, torch.zeros_like(gone)), (ItemRules(trie, deny=deny), gone)):
        expected, order = scores.masked_fill(removed, -torch.inf).sort(dim=1, descending=True)
        order = order.masked_fill(expected == -torch.inf, -1)
        output = model.recommend(
            batch["input_ids"],
            batch["attention_mask"],
            trie,
            num_items=num_items,
            num_beams=60,
            rules=rules,
            exclude=None if rules is None else exclude,
        )
        assert_same_ranking(output.item_rows, output.scores, order, expected)
        torch.testing.assert_close(output.scores, expected, atol=1e-5, rtol=1e-5)


def test_a_narrow_beam_finds_as_many_items_as_were_asked_for():
    model, trie = everything()
    batch = make_batch(trie, [3, 1])
    output = model.recommend(batch["input_ids"], batch["attention_mask"], trie, num_items=8, num_beams=2)
    assert (output.item_rows >= 0).all()
    scores = model.score_items(batch["input_ids"], batch["attention_mask"], trie, output.item_rows)
    torch.testing.assert_close(scores, output.scores)
    by_level = model.score_items(batch["input_ids"], batch["attention_mask"], trie, output.item_rows, per_level=True)
    torch.testing.assert_close(by_level.sum(-1), scores)
