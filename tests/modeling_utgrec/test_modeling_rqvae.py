"""RQ-VAE against brute force in float64, its restarts, LETTER's regularisations, and what every model here must do."""

import math

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import AutoConfig, AutoModel, set_seed

from modeling_utgrec import RQVAEConfig, RQVAEModel
from modeling_utgrec.modeling_rqvae import code_diversity, collaborative_alignment
from modeling_utgrec.quantization import balanced_codes

TINY = {"input_dim": 10, "hidden_sizes": [12, 9], "codebook_dim": 4, "num_levels": 3, "codebook_size": 8}
LETTER = {"collaborative_weight": 0.3, "collaborative_dim": 6, "diversity_weight": 0.2, "diversity_clusters": 3}


def make_model(seed: int = 0, **config) -> RQVAEModel:
    set_seed(seed)
    return RQVAEModel(RQVAEConfig(**{**TINY, **config}))


def make_embeddings(num_items: int = 40, dim: int = 10, seed: int = 1) -> torch.Tensor:
    return torch.randn(num_items, dim, generator=torch.Generator().manual_seed(seed)) + 3.0


def initialised(**config) -> tuple[RQVAEModel, torch.Tensor, torch.Tensor]:
    """A model after its first training pass, in evaluation mode, and inputs."""
    model, embeddings = make_model(**config), make_embeddings()
    collaborative = torch.randn(len(embeddings), config.get("collaborative_dim") or 1)
    model.set_input_statistics(embeddings)
    model.train()(embeddings, collaborative)
    return model.eval(), embeddings, collaborative


def by_hand(model: RQVAEModel, embeddings: torch.Tensor) -> dict[str, np.ndarray | float]:
    """The forward pass, item by item and code by code."""

    def layers(sequence, x):
        linear = [module for module in sequence if isinstance(module, torch.nn.Linear)]
        for number, layer in enumerate(linear):
            x = layer.weight.detach().double().numpy() @ x + layer.bias.detach().double().numpy()
            x = np.maximum(x, 0) if number < len(linear) - 1 else x
        return x

    mean, scale = model.input_mean.double().numpy(), float(model.input_scale)
    codes, residuals, reconstruction, quantization = [], [], 0.0, 0.0
    for embedding in embeddings.double().numpy():
        x = (embedding - mean) * scale
        z = layers(model.encoder, x)
        residual, total, row = z, np.zeros_like(z), []
        for codebook in model.quantizer.codebooks:
            vectors = codebook.codes.detach().double().numpy()
            distances = [sum((a - b) ** 2 for a, b in zip(residual, vector, strict=True)) for vector in vectors]
            row.append(int(np.argmin(distances)))
            residuals.append(residual)
            quantization += min(distances) * (1 + model.config.commitment_weight)
            total = total + vectors[row[-1]]
            residual = residual - vectors[row[-1]]
        codes.append(row)
        reconstruction += ((layers(model.decoder, total) - x) ** 2).sum()
    num_items = len(embeddings)
    return {
        "codes": np.array(codes),
        "residuals": np.array(residuals).reshape(num_items, len(codes[0]), -1),
        "reconstruction": reconstruction / num_items,
        "quantization": quantization / num_items,
    }


def test_forward_by_hand():
    model, embeddings, _ = initialised(commitment_weight=0.4, quantization_weight=0.7)
    output, expected = model(embeddings), by_hand(model, embeddings)
    np.testing.assert_array_equal(output.codes, expected["codes"])
    np.testing.assert_allclose(output.residuals.detach(), expected["residuals"], atol=1e-5)
    assert output.reconstruction_loss.item() == pytest.approx(expected["reconstruction"], rel=1e-5)
    assert output.quantization_loss.item() == pytest.approx(expected["quantization"], rel=1e-5)
    assert output.loss.item() == pytest.approx(expected["reconstruction"] + 0.7 * expected["quantization"], rel=1e-5)
    assert output.collaborative_loss is None and output.diversity_loss is None
    torch.testing.assert_close(output.representations, model.encode(embeddings))
    torch.testing.assert_close(output.residuals[:, 0], output.representations)
    vectors = model.quantizer.level_vectors()
    total = sum(vectors[level][output.codes[:, level]] for level in range(3))
    torch.testing.assert_close(output.quantized, total)
    error = ((output.reconstruction - embeddings) * model.input_scale).square().sum(-1).mean()
    torch.testing.assert_close(error, output.reconstruction_loss)


def test_input_statistics_centre_and_give_unit_mean_square_length():
    model, embeddings = make_model(), make_embeddings() * 7
    model.set_input_statistics(embeddings)
    standardised = (embeddings - model.input_mean) * model.input_scale
    torch.testing.assert_close(standardised.mean(0), torch.zeros(10), atol=1e-5, rtol=0)
    assert standardised.square().sum(-1).mean().item() == pytest.approx(1, rel=1e-5)
    model.set_input_statistics(torch.ones(5, 10))  # all alike: nothing to divide by
    assert model.input_scale == 1


def test_gradients_of_the_parts():
    """Codebooks learn from the codebook loss alone; the encoder from reconstruction (straight through) and
    commitment."""
    model, embeddings, _ = initialised()
    output = model(embeddings)
    codebooks = [codebook.codes for codebook in model.quantizer.codebooks]
    through = torch.autograd.grad(output.reconstruction_loss, codebooks, retain_graph=True, allow_unused=True)
    assert all(gradient is None for gradient in through)
    encoder = [parameter for parameter in model.encoder.parameters()]
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(output.reconstruction_loss, encoder, retain_graph=True))
    vectors, codes = codebooks[1].detach(), output.codes[:, 1]
    gradient = torch.autograd.grad(output.quantization_loss, codebooks[1])[0]
    pull = torch.zeros_like(vectors).index_add_(0, codes, 2 * (vectors[codes] - output.residuals[:, 1].detach()))
    torch.testing.assert_close(gradient, pull / len(codes))


@pytest.mark.parametrize("config", [{}, LETTER])
def test_every_parameter_gets_a_finite_gradient(config, ordered_sums):
    model, embeddings, collaborative = initialised(**config)
    loss = model.train()(embeddings, collaborative).loss
    with ordered_sums():
        loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_first_training_pass_sets_the_codebooks_to_kmeans_centroids():
    model, embeddings = make_model(codebook_size=4), make_embeddings(200)
    model.set_input_statistics(embeddings)
    untouched = [codebook.codes.detach().clone() for codebook in model.quantizer.codebooks]
    model.eval()(embeddings)
    assert all(torch.equal(a, b.codes) for a, b in zip(untouched, model.quantizer.codebooks, strict=True))
    output = model.train()(embeddings)
    assert model.training_passes == 1
    for level, codebook in enumerate(model.quantizer.codebooks):
        residuals, codes = output.residuals[:, level].detach(), output.codes[:, level]
        assert codes.unique().numel() == 4
        for code in range(4):  # Lloyd's algorithm is near its end: a centroid is about the mean of its points
            distance = (codebook.codes[code] - residuals[codes == code].mean(0)).norm()
            assert distance < 0.5 * residuals.std(0).norm()
    before = [codebook.codes.detach().clone() for codebook in model.quantizer.codebooks]
    model(embeddings)
    assert all(torch.equal(a, b.codes) for a, b in zip(before, model.quantizer.codebooks, strict=True))


def test_restarts_revive_dead_codes_and_leave_the_others():
    model, embeddings, _ = initialised(restart_passes=3)
    model.train()
    codebook = model.quantizer.codebooks[1]
    with torch.no_grad():
        codebook.codes[[2, 5]] = 1e3  # out of reach of every item
    model.idle_passes.zero_()
    for passes in range(1, 4):
        output = model(embeddings)
        assert not {2, 5} & set(output.codes[:, 1].tolist())
        assert model.idle_passes[1, [2, 5]].tolist() == [passes, passes] and model.restarts == 0
    others = [code for code in range(8) if code not in (2, 5)]
    others = [code for code in others if model.idle_passes[1, code] < 3]  # how many more die is up to the processor
    assert others
    before = codebook.codes.detach()[others].clone()
    idle_elsewhere = (model.idle_passes >= 3).sum() - 2
    output = model(embeddings)
    assert {2, 5} <= set(output.codes[:, 1].tolist())
    assert model.restarts == 2 + idle_elsewhere
    assert (model.idle_passes[1, [2, 5]] == 0).all()
    assert codebook.codes.abs().max() < 1e2
    assert torch.equal(codebook.codes.detach()[others], before)


def test_without_restarts_dead_codes_stay():
    model, embeddings, _ = initialised(restart_passes=0)
    with torch.no_grad():
        model.quantizer.codebooks[0].codes[3] = 1e3
    model.train()
    for _ in range(30):
        output = model(embeddings)
    assert 3 not in output.codes[:, 0] and model.restarts == 0


def test_a_batch_smaller_than_a_codebook_trains():
    model, embeddings = make_model(restart_passes=1), make_embeddings(3)
    for _ in range(4):
        assert torch.isfinite(model(embeddings).loss)
    assert torch.isfinite(torch.cat(model.quantizer.level_vectors())).all()


def test_training_uses_the_codes_and_tells_items_apart():
    model, embeddings = make_model(restart_passes=10), make_embeddings(128)
    model.set_input_statistics(embeddings)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = model(embeddings).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    codes = model.eval()(embeddings).codes
    # of ten seeds, the worst have 0.48, 6 codes (restarted ones may be idle again) and 76 items
    assert losses[-1] < 0.7 * losses[0]
    assert all(codes[:, level].unique().numel() >= 5 for level in range(3))
    assert len(codes.unique(dim=0)) > 50


# LETTER


def test_collaborative_alignment_by_hand():
    generator = torch.Generator().manual_seed(0)
    quantized, collaborative = torch.randn(5, 3, generator=generator), torch.randn(5, 3, generator=generator)
    total = 0.0
    for i in range(5):
        scores = [sum(a * b for a, b in zip(quantized[i].tolist(), h.tolist(), strict=True)) for h in collaborative]
        total -= scores[i] - math.log(sum(math.exp(score) for score in scores))
    assert collaborative_alignment(quantized, collaborative).item() == pytest.approx(total / 5, rel=1e-5)


def test_code_diversity_by_hand():
    """The mean over all draws of another code of the same cluster of LETTER's cross-entropy."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(7, 3, generator=generator)
    clusters, codes = torch.tensor([0, 1, 0, 1, 2, 2, 0]), torch.tensor([0, 0, 6, 3, 4])
    total = 0.0
    for code in codes.tolist():
        scores = {j: float(vectors[code].double() @ vectors[j].double()) for j in range(7) if j != code}
        log_sum = math.log(sum(math.exp(score) for score in scores.values()))
        mates = [j for j in scores if clusters[j] == clusters[code]]
        total += sum(log_sum - scores[mate] for mate in mates) / len(mates)
    assert code_diversity(vectors, clusters, codes).item() == pytest.approx(total / 5, rel=1e-5)


def test_letter_adds_its_weighted_parts():
    model, embeddings, collaborative = initialised(**LETTER)
    output = model(embeddings, collaborative)
    scale = 10**0.5  # of embeddings of width 10 whose elements are of about 1
    projected = model.to_collaborative(scale * output.quantized)
    assert projected.shape == collaborative.shape
    torch.testing.assert_close(output.collaborative_loss, collaborative_alignment(projected, collaborative))
    vectors = model.quantizer.level_vectors()
    losses = [code_diversity(scale * vectors[i], model.code_clusters[i], output.codes[:, i]) for i in range(3)]
    torch.testing.assert_close(output.diversity_loss, torch.stack(losses).mean())
    parts = output.reconstruction_loss + 4.0 * output.quantization_loss
    parts = parts + 0.3 * output.collaborative_loss + 0.2 * output.diversity_loss
    torch.testing.assert_close(output.loss, parts)


def test_equal_widths_need_no_projection_and_missing_collaborative_embeddings_are_an_error():
    model = make_model(**{**LETTER, "collaborative_dim": 4})
    assert isinstance(model.to_collaborative, torch.nn.Identity)
    with pytest.raises(ValueError, match="no collaborative embeddings"):
        model.train()(make_embeddings())
    assert model.eval()(make_embeddings()).collaborative_loss is None  # codes of new items need none


def test_sinkhorn_chooses_the_last_level_in_training_alone():
    """Codes of the pass, from the residuals that it gives; all others and those of evaluation are the nearest."""
    model, embeddings = make_model(sinkhorn_epsilon=0.02, restart_passes=0), make_embeddings()
    model.set_input_statistics(embeddings)
    model.train()(embeddings)
    found = model(embeddings)
    for level, codebook in enumerate(model.quantizer.codebooks):
        distances = torch.cdist(found.residuals[:, level].detach().double(), codebook.codes.detach().double()) ** 2
        nearest = distances.argmin(1)
        expected = balanced_codes(distances, 0.02) if level == 2 else nearest
        assert torch.equal(found.codes[:, level], expected)
    assert not torch.equal(expected, nearest)
    vectors = sum(codebook.codes[found.codes[:, level]] for level, codebook in enumerate(model.quantizer.codebooks))
    torch.testing.assert_close(found.quantized, vectors)
    found.loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    plain = make_model(restart_passes=0).eval()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(embeddings).codes, plain(embeddings).codes)


def test_clusters_are_balanced_and_refreshed_every_so_many_passes():
    model, embeddings = make_model(**LETTER, cluster_refresh_passes=3), make_embeddings()
    collaborative = torch.randn(len(embeddings), 6)
    model.train()
    for passes in range(7):
        if passes % 3:
            model.code_clusters.fill_(-1)  # not looked at anew: stays
        model(embeddings, collaborative)
        assert (model.code_clusters == -1).all() == bool(passes % 3)
        if not passes % 3:
            sizes = [torch.bincount(clusters, minlength=3) for clusters in model.code_clusters]
            assert all(counts.max() - counts.min() <= 1 for counts in sizes)


# what every model must do


@pytest.mark.parametrize("config", [{}, LETTER])
def test_save_and_load_is_bit_equal_with_all_state(tmp_path, config):
    model, embeddings, collaborative = initialised(**config, restart_passes=2)
    for _ in range(3):
        model.train()(embeddings, collaborative)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is RQVAEModel and loaded.training_passes == 4
    assert model.state_dict().keys() == loaded.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    a, b = model.eval()(embeddings, collaborative), loaded.eval()(embeddings, collaborative)
    assert torch.equal(a.codes, b.codes) and torch.equal(a.loss, b.loss)
    # the codebooks of a loaded model are not set anew
    before = [codebook.codes.detach().clone() for codebook in loaded.quantizer.codebooks]
    loaded.idle_passes.zero_()
    loaded.train()(embeddings, collaborative)
    assert all(torch.equal(a, b.codes) for a, b in zip(before, loaded.quantizer.codebooks, strict=True))


def test_auto_classes_and_config_round_trip(tmp_path):
    config = RQVAEConfig(**TINY, **LETTER)
    config.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).to_diff_dict() == config.to_diff_dict()
    assert type(AutoModel.from_config(config)) is RQVAEModel
    default = RQVAEConfig()
    assert default.hidden_sizes == [512, 256, 128]
    assert (default.codebook_dim, default.level_sizes, default.commitment_weight) == (32, [256] * 3, 0.25)
    assert default.level_offsets == [2, 258, 514] and default.level_layout() == {"level_sizes": [256] * 3}


def test_initial_weights_keep_the_size_of_the_input():
    model = RQVAEModel(RQVAEConfig())
    z = model.encode(torch.randn(256, 384) / math.sqrt(384))
    assert 0.3 < z.norm(dim=-1).mean() < 3
    assert not model.training_passes and not model.idle_passes.any()


def test_evaluation_is_deterministic_and_an_item_has_the_same_codes_alone():
    model, embeddings, collaborative = initialised(**LETTER)
    a, b = model(embeddings, collaborative), model(embeddings, collaborative)
    assert torch.equal(a.loss, b.loss) and torch.equal(a.codes, b.codes)
    assert not model.idle_passes.any() or model.training_passes == 1  # evaluation counts nothing
    for row in range(0, len(embeddings), 7):
        alone = model(embeddings[row : row + 1])
        assert torch.equal(alone.codes[0], a.codes[row])
        torch.testing.assert_close(alone.residuals[0], a.residuals[row], atol=1e-5, rtol=1e-5)


def test_training_follows_the_seed():
    states = []
    for _ in range(2):
        model = make_model(seed=3, restart_passes=1)
        for _ in range(4):
            model(make_embeddings(6))
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_levels": 0}, "num_levels must be at least 1"),
        ({"hidden_sizes": [4, 0]}, "hidden_sizes must be positive"),
        ({"restart_passes": -1}, "restart_passes"),
        ({"sinkhorn_epsilon": -0.1}, "sinkhorn_epsilon"),
        ({"collaborative_weight": 0.1}, "needs collaborative_dim"),
        ({"diversity_weight": 0.1, "codebook_size": 8, "diversity_clusters": 5}, "1 to 4"),
    ],
)
def test_wrong_configurations_are_named(change, message):
    with pytest.raises((ValueError, StrictDataclassClassValidationError), match=message):
        RQVAEConfig(**change)
