"""VQ-Rec: items from codes, the contrastive task against loops, maps of codes that are learned permutations."""

import math

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassClassValidationError

from modeling_utgrec import VQRecConfig, VQRecForNextItem, VQRecForPreTraining
from modeling_utgrec.quantization_product import (
    centroid_likeness,
    nearest_permutations,
    padded_width,
    product_codes,
    sinkhorn,
)

NUM_ITEMS, GROUPS, SIZE = 20, 3, 5
TINY = {"num_items": NUM_ITEMS, "num_groups": GROUPS, "codebook_size": SIZE, "content_size": 7, "hidden_size": 8}
TINY |= {"inner_size": 10, "max_history": 6, "initializer_range": 0.3}
HISTORIES = torch.tensor([[0, 0, 3, 4], [1, 2, 5, 6], [0, 8, 8, 1], [2, 3, 4, 5], [0, 0, 0, 9]])
TARGETS = torch.tensor([7, 9, 7, 9, 20])
LABELS = torch.full_like(HISTORIES, -100).index_copy(1, torch.tensor([3]), TARGETS[:, None])


def make_model(kind=VQRecForNextItem, **config):
    torch.manual_seed(0)
    model = kind(VQRecConfig(**{**TINY, **config}))
    return model.set_items(codes=torch.randint(SIZE, (model.config.num_items, GROUPS))).eval()


def make_quantizer(seed, width=7):
    generator = torch.Generator().manual_seed(seed)
    padded = padded_width(width, GROUPS)
    rotation = torch.linalg.qr(torch.randn(padded, padded, generator=generator))[0]
    centroids = torch.randn(GROUPS, SIZE, padded // GROUPS, generator=generator)
    return {"centre": torch.randn(width, generator=generator), "rotation": rotation, "centroids": centroids}


def test_an_item_is_the_mean_of_its_codes_embeddings():
    items = make_model().model.embeddings.items
    found = items.vectors()
    for row, codes in enumerate(items.codes.tolist()):
        expected = sum(items.embeddings[group, code].double() for group, code in enumerate(codes)) / GROUPS
        torch.testing.assert_close(found[row].double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(items(torch.tensor([[4, 9]])), found[[3, 8]][None])


def test_codes_against_loops():
    quantizer = make_quantizer(1)
    content = torch.randn(6, 7)
    found = product_codes(content, *quantizer.values())
    centre, rotation, centroids = (each.double() for each in quantizer.values())
    for row in range(6):
        padded = torch.cat([content[row].double() - centre, torch.zeros(2, dtype=torch.float64)])
        rotated = torch.stack([sum(rotation[i, j] * padded[j] for j in range(9)) for i in range(9)])
        for group in range(GROUPS):
            part = rotated[3 * group : 3 * group + 3]
            assert found[row, group] == ((part - centroids[group]) ** 2).sum(-1).argmin()
    model = make_model()
    assert torch.equal(model.set_items(codes=found.repeat(4, 1)[:20], **quantizer).codes_of(content), found)


def test_likeness_of_a_quantizer_to_itself_in_another_order():
    quantizer = make_quantizer(2)
    order = torch.tensor([3, 1, 4, 0, 2])
    rotations = (quantizer["rotation"], quantizer["rotation"])
    found = centroid_likeness(rotations, (quantizer["centroids"][:, order], quantizer["centroids"]))
    torch.testing.assert_close(found[:, range(SIZE), order], torch.ones(GROUPS, SIZE))
    assert torch.equal(nearest_permutations(found).argmax(-1), order.expand(GROUPS, SIZE))


def test_sinkhorn_against_float64():
    logits = torch.randn(2, 4, 4)
    matrices = logits.double().exp()
    for _ in range(3):
        matrices = matrices / matrices.sum(2, keepdim=True)
        matrices = matrices / matrices.sum(1, keepdim=True)
    torch.testing.assert_close(sinkhorn(logits).double(), matrices, rtol=1e-5, atol=1e-6)
    many = sinkhorn(logits, rounds=200)
    torch.testing.assert_close(many.sum(2), torch.ones(2, 4))
    torch.testing.assert_close(many.sum(1), torch.ones(2, 4))


def test_the_hard_matrix_is_a_permutation_and_its_logits_get_a_gradient():
    """The authors' program gives neither: rows choose apart, and the gradient is zero."""
    model = make_model().train()
    model.start_code_map(make_quantizer(3))
    items = model.model.embeddings.items
    trained = [key for key, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained == ["model.embeddings.items.code_map"]
    hard = items.permutations().detach()
    torch.testing.assert_close(hard.sum(1), torch.ones(GROUPS, SIZE))
    torch.testing.assert_close(hard.sum(2), torch.ones(GROUPS, SIZE))
    assert (((hard - 1).abs() < 1e-5) | (hard.abs() < 1e-5)).all()
    model(HISTORIES, labels=LABELS).loss.backward()
    gradient = items.code_map.grad
    assert gradient.isfinite().all() and (gradient.abs().amax((1, 2)) > 1e-6).all()


def test_a_learned_map_brings_pre_trained_embeddings_back_into_order():
    """Codes of the same items, numbered in another order: training finds the order from the interactions alone."""
    torch.manual_seed(0)
    model = make_model(hidden_dropout=0.0, attention_dropout=0.0)
    loss_before = model(HISTORIES, labels=LABELS).loss.item()
    items = model.model.embeddings.items
    expected = items.vectors().detach()
    quantizer = make_quantizer(4)
    order = torch.stack([torch.randperm(SIZE) for _ in range(GROUPS)])  # new code k was the old one order[k]
    places = order.argsort(1)
    codes = torch.stack([places[group][items.codes[:, group]] for group in range(GROUPS)], dim=1)
    moved = quantizer["centroids"].gather(1, order[..., None].expand(-1, -1, 3))
    model.set_items(codes=codes, **quantizer | {"centroids": moved})
    assert not torch.allclose(items.vectors(), expected)
    model.start_code_map(quantizer)
    torch.testing.assert_close(items.code_map.detach().amax(2), torch.full((GROUPS, SIZE), 10.0))  # β, cosines of 1
    hard = model.finish_code_map()
    assert torch.equal(hard.argmax(-1), order)
    torch.testing.assert_close(items.vectors(), expected)
    assert model(HISTORIES, labels=LABELS).loss.item() == pytest.approx(loss_before, rel=1e-4)
    assert items.code_map is None and all(each.requires_grad for each in model.parameters())


@torch.no_grad()
def test_a_map_is_drawn_once_for_all_items(monkeypatch):
    monkeypatch.setattr("modeling_utgrec.modeling_content.ITEMS_AT_A_TIME", 3)
    model = make_model().train().set_items(codes=torch.zeros(NUM_ITEMS, GROUPS, dtype=torch.long))
    model.start_code_map(None)
    vectors = model.item_vectors()
    torch.testing.assert_close(vectors, vectors[:1].expand_as(vectors))
    assert not torch.allclose(model.item_vectors(), vectors)


def test_the_map_is_without_noise_once_it_is_finished():
    model = make_model().train()
    before = model.model.embeddings.items.embeddings.detach().clone()
    found = []
    for random in (False, False, True):
        model.start_code_map(make_quantizer(5))
        with torch.no_grad():
            model.model.embeddings.items.embeddings.copy_(before)
        found.append(model.finish_code_map(random))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    assert all((each.sum(1) == 1).all() and (each.sum(2) == 1).all() for each in found)
    rows = model.model.embeddings.items.embeddings
    assert torch.equal(rows[1], before[1][found[2][1].argmax(-1)])


def test_a_map_that_is_being_learned_is_not_lost_in_a_file(tmp_path):
    model = make_model()
    model.start_code_map(make_quantizer(5))
    with pytest.raises(ValueError, match="call finish_code_map before"):
        model.save_pretrained(tmp_path / "unfinished")
    assert not (tmp_path / "unfinished").exists()
    model.finish_code_map()
    model.save_pretrained(tmp_path / "finished")
    loaded = VQRecForNextItem.from_pretrained(tmp_path / "finished")
    assert torch.equal(loaded.item_vectors(), model.item_vectors())


@pytest.mark.parametrize("duplicates", ["excluded", "zero"])
def test_contrastive_task_against_loops(duplicates, monkeypatch, in_parts):
    model = make_model(VQRecForPreTraining, duplicates=duplicates)
    synthetic = torch.randint(SIZE, (5, GROUPS))
    monkeypatch.setattr(model, "semi_synthetic", lambda codes: synthetic)
    with torch.no_grad():
        loss = model(HISTORIES, labels=LABELS).loss.item()
        states = model.model(HISTORIES).last_hidden_state[:, -1].double()
        vectors, drawn = model.item_vectors().double(), model.model.embeddings.items.of_rows(synthetic).double()
    total = 0.0
    for row, target in enumerate(TARGETS.tolist()):
        own = math.exp(F.cosine_similarity(states[row], vectors[target - 1], dim=0) / 0.07)
        others = [math.exp(F.cosine_similarity(states[row], drawn[row], dim=0) / 0.07)]
        for other, its_target in enumerate(TARGETS.tolist()):
            if its_target != target:
                others.append(math.exp(F.cosine_similarity(states[row], vectors[its_target - 1], dim=0) / 0.07))
            elif other != row and duplicates == "zero":
                others.append(1.0)
        total -= math.log(own / (own + sum(others)))
    assert loss == pytest.approx(total / 5, rel=1e-5)


def test_semi_synthetic_codes_are_drawn_at_their_rate():
    model = make_model(VQRecForPreTraining, codebook_size=200, replacement_rate=0.75)
    codes = torch.zeros(2000, GROUPS, dtype=torch.long)
    drawn = model.semi_synthetic(codes)
    assert (drawn != codes).float().mean().item() == pytest.approx(0.75 * 199 / 200, abs=0.02)
    assert drawn.max() == 199


def test_the_pre_trained_quantizer_stays_with_a_model_without_items(tmp_path):
    model = make_model(VQRecForPreTraining)
    quantizer = make_quantizer(6)
    model.set_items(codes=torch.zeros(NUM_ITEMS, GROUPS, dtype=torch.long), **quantizer)
    model.without_items().save_pretrained(tmp_path)
    config = VQRecConfig(**TINY | {"num_items": 4})
    moved, _ = VQRecForNextItem.from_pretrained(tmp_path, config=config, output_loading_info=True)
    content = torch.randn(4, 7)
    codes = moved.codes_of(content)
    assert torch.equal(codes, product_codes(content, *quantizer.values()))
    scores = moved.set_items(codes=codes).user_states(torch.tensor([[1, 2]])) @ moved.item_embeddings.T
    assert scores.isfinite().all() and scores.shape == (1, 4)


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"codes": torch.full((20, GROUPS), SIZE)}, "whole numbers from 0 to 4"),
        ({"codes": torch.zeros(20, GROUPS)}, "whole numbers"),
        ({"codes": torch.zeros(20, 2, dtype=torch.long)}, r"reads \(20, 3\)"),
        (
            {"codes": torch.zeros(20, GROUPS, dtype=torch.long), "centre": torch.zeros(9)},
            r"has \(7,\), and got \(9,\)",
        ),
        (
            {"codes": torch.zeros(20, GROUPS, dtype=torch.long), "centre": torch.full((7,), torch.nan)},
            "centre: the quantizer has NaN",
        ),
    ],
)
def test_codes_that_do_not_fit(tables, said):
    with pytest.raises(ValueError, match=said):
        make_model().set_items(**tables)


def test_codes_that_are_refused_leave_the_quantizer():
    model = make_model()
    with pytest.raises(ValueError, match="whole numbers"):
        model.set_items(codes=torch.full((20, GROUPS), SIZE), **make_quantizer(1))
    assert not model.content_items.centroids.any()


@pytest.mark.parametrize("values", [{"num_groups": 0}, {"codebook_size": 0}, {"replacement_rate": 1.1}])
def test_contradictions_are_named(values):
    with pytest.raises(StrictDataclassClassValidationError, match=next(iter(values))):
        VQRecConfig(**values)
