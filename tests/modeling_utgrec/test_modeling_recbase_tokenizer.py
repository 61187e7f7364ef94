"""RecBase's tokenizer: its losses against independent computations, its curriculum, restarts and state."""

import math

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from transformers import AutoConfig, AutoModel, set_seed

from modeling_utgrec import RecBaseTokenizerConfig, RecBaseTokenizerModel
from modeling_utgrec.modeling_recbase_tokenizer import kl_divergence, usage_shortfall

TINY = {"input_dim": 10, "hidden_sizes": [12, 9], "codebook_dim": 4, "num_levels": 3, "codebook_size": 8}
VARIANTS = [{}, {"distance": "cosine"}, {"kl_weight": 1e-3}, {"entropy_weight": 0}, {"hidden_sizes": []}]


def make_model(seed: int = 0, **config) -> RecBaseTokenizerModel:
    set_seed(seed)
    return RecBaseTokenizerModel(RecBaseTokenizerConfig(**{**TINY, **config}))


def make_embeddings(num_items: int = 40, dim: int = 10, seed: int = 1) -> torch.Tensor:
    return torch.randn(num_items, dim, generator=torch.Generator().manual_seed(seed)) + 3.0


def trained(passes: int = 1, **config) -> tuple[RecBaseTokenizerModel, torch.Tensor]:
    """A model after some training passes, in evaluation mode, and its inputs."""
    model, embeddings = make_model(**config), make_embeddings()
    model.set_input_statistics(embeddings)
    model.train()
    for _ in range(passes):
        model(embeddings)
    return model.eval(), embeddings


def vectors_of(model: RecBaseTokenizerModel) -> list[np.ndarray]:
    return [vectors.detach().double().numpy() for vectors in model.quantizer.level_vectors()]


# losses


def test_without_hidden_layers_encoder_and_decoder_are_affine():
    model, embeddings = trained(hidden_sizes=[])
    first, second, third = embeddings.split([13, 13, 14])
    z = [model(part).representations for part in (first, second, third[:13], first + second - third[:13])]
    torch.testing.assert_close(z[0] + z[1] - z[2], z[3], rtol=1e-4, atol=1e-4)
    assert [tuple(layer.weight.shape) for layer in (*model.encoder, *model.decoder)] == [(4, 10), (10, 4)]


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_codes_and_losses_by_hand(distance):
    changes = {"entropy_weight": 0.3, "commitment_weight": 0.4, "quantization_weight": 0.7, "hidden_sizes": [9]}
    model, embeddings = trained(distance=distance, **changes)
    embeddings = make_embeddings(seed=2)  # not those that the codebooks started from: no residual is 0
    output, vectors = model(embeddings), vectors_of(model)
    z = output.representations.detach().double().numpy()
    quantization, shortfalls = 0.0, []
    residuals = z.copy()
    for level, codebook in enumerate(vectors):
        distances = np.empty((len(z), len(codebook)))
        for item, residual in enumerate(residuals):
            for code, vector in enumerate(codebook):
                if distance == "cosine":
                    lengths = np.linalg.norm(residual) * np.linalg.norm(vector)
                    distances[item, code] = 1 - residual @ vector / lengths
                else:
                    distances[item, code] = sum((a - b) ** 2 for a, b in zip(residual, vector, strict=True))
        codes = distances.argmin(1)
        np.testing.assert_array_equal(output.codes[:, level], codes)
        np.testing.assert_allclose(output.residuals[:, level].detach(), residuals, atol=1e-5)
        chosen = codebook[codes]
        quantization += 1.4 * ((residuals - chosen) ** 2).sum(1).mean()
        temperature = 0.1 * distances.min(1).mean()
        soft = np.exp(-distances / temperature)
        usage = (soft / soft.sum(1, keepdims=True)).mean(0)
        shortfalls.append(math.log(8) + sum(p * math.log(p) for p in usage if p > 0))
        residuals = residuals - chosen
    assert output.quantization_loss.item() == pytest.approx(quantization, rel=1e-4)
    assert output.entropy_loss.item() == pytest.approx(np.mean(shortfalls), rel=1e-4)
    error = ((output.reconstruction - embeddings) * model.input_scale).square().sum(-1).mean()
    torch.testing.assert_close(output.reconstruction_loss, error)
    parts = output.reconstruction_loss + 0.7 * output.quantization_loss + 0.3 * output.entropy_loss
    torch.testing.assert_close(output.loss, parts)
    assert output.kl_loss is None
    torch.testing.assert_close(model.encode(embeddings), output.representations)


def test_usage_shortfall_is_zero_for_even_and_log_k_for_collapsed_use():
    even = torch.full((8, 8), 5.0, dtype=torch.float64).fill_diagonal_(0.01)
    assert usage_shortfall(even, 0.1).item() == pytest.approx(0, abs=1e-6)
    collapsed = torch.full((8, 8), 5.0, dtype=torch.float64)
    collapsed[:, 3] = 0.01
    assert usage_shortfall(collapsed, 0.1).item() == pytest.approx(math.log(8), abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.02, 5.0), st.floats(1e-4, 1e4))
def test_usage_shortfall_lies_between_the_extremes_and_has_no_scale(seed, temperature, scale):
    distances = torch.rand(12, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    value = usage_shortfall(distances, temperature)
    assert -1e-9 <= value <= math.log(6) + 1e-9
    torch.testing.assert_close(usage_shortfall(distances * scale, temperature), value, atol=1e-9, rtol=1e-6)


def test_the_entropy_term_is_differentiable_and_evens_out_the_use():
    """Items sit on one code, another is a little farther: descent brings that one nearer, and use becomes even."""
    items = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vectors = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]], dtype=torch.float64, requires_grad=True)

    def shortfall(vectors):
        return usage_shortfall(torch.cdist(items, vectors).square(), 0.5)

    def temperature(vectors):  # what the gradient does not go through
        return 0.5 * torch.cdist(items, vectors).square().amin(-1).mean()

    (gradient,) = torch.autograd.grad(shortfall(vectors), vectors)
    fixed = temperature(vectors).detach()
    step = 1e-6
    for place in [(0, 0), (1, 0), (2, 1)]:  # central differences at a fixed temperature
        moved = []
        for sign in (1, -1):
            other = vectors.detach().clone()
            other[place] += sign * step
            usage = (-torch.cdist(items, other).square() / fixed).softmax(-1).mean(0)
            moved.append(math.log(3) + (usage * usage.log()).sum().item())
        assert gradient[place].item() == pytest.approx((moved[0] - moved[1]) / (2 * step), rel=1e-4)
    assert gradient[1, 0] > 0 and gradient[2, 1] > 0  # descent goes the other way: towards the items
    before = torch.cdist(items, vectors).argmin(1).bincount(minlength=3)
    optimizer = torch.optim.Adam([vectors], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        shortfall(vectors).backward()
        optimizer.step()
    after = torch.cdist(items, vectors).argmin(1).bincount(minlength=3)
    assert before.max() > 50 and after.max() < 32 and after.min() > 10


def test_the_entropy_term_reaches_codebooks_and_encoder_of_every_level():
    model, embeddings = trained()
    codebooks = [codebook.codes for codebook in model.quantizer.codebooks]
    gradients = torch.autograd.grad(model(embeddings).entropy_loss, [*codebooks, *model.encoder.parameters()])
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_kl_divergence_against_integration():
    mean, log_variance = torch.tensor([[0.5, -1.0], [0.0, 0.3]]), torch.tensor([[0.2, -0.7], [-1.0, 0.4]])
    rng, total = np.random.default_rng(0), 0.0
    for row in range(2):
        own = multivariate_normal(mean[row].numpy(), np.diag(log_variance[row].exp().numpy()))
        draws = own.rvs(400_000, random_state=rng)
        total += (own.logpdf(draws) - multivariate_normal([0, 0], np.eye(2)).logpdf(draws)).mean()
    assert kl_divergence(mean, log_variance).item() == pytest.approx(total / 2, rel=2e-2)
    assert kl_divergence(torch.zeros(3, 2), torch.zeros(3, 2)) == 0


def test_with_kl_training_samples_and_evaluation_takes_the_mean():
    model, embeddings = trained(kl_weight=0.01, restart_passes=0)
    encoded = model.encoder(model.standardise(embeddings))
    mean, log_variance = encoded[:, :4], encoded[:, 4:]
    output = model(embeddings)
    torch.testing.assert_close(output.residuals[:, 0], mean)
    torch.testing.assert_close(output.kl_loss, kl_divergence(mean, log_variance))
    parts = output.reconstruction_loss + 4.0 * output.quantization_loss + 0.01 * output.entropy_loss
    torch.testing.assert_close(output.loss, parts + 0.01 * output.kl_loss)
    draws = torch.stack([model.train()(embeddings).residuals[:, 0] for _ in range(400)])
    assert torch.equal(output.representations, model.eval()(embeddings).representations)
    torch.testing.assert_close(draws.std(0), (0.5 * log_variance).exp(), rtol=0.25, atol=0)
    torch.testing.assert_close(draws.mean(0), mean, rtol=0, atol=0.3 * (0.5 * log_variance).exp().max().item())
    # the noise starts small beside the representations
    fresh = make_model(kl_weight=0.01)
    spread = (0.5 * fresh.encoder(torch.zeros(1, 10))[:, 4:]).exp()
    torch.testing.assert_close(spread, torch.full((1, 4), math.exp(-3)))


# curriculum


def test_levels_become_active_on_schedule_and_start_from_kmeans_of_their_residuals():
    model, embeddings = make_model(curriculum_passes=3, codebook_size=4, restart_passes=0), make_embeddings(200)
    model.set_input_statistics(embeddings)
    assert model.num_active_levels == 1
    for passes in range(9):
        active = min(3, 1 + passes // 3)
        before = [codebook.codes.detach().clone() for codebook in model.quantizer.codebooks]
        output = model.train()(embeddings)
        assert model.num_active_levels == active and model.training_passes == passes + 1
        for level, codebook in enumerate(model.quantizer.codebooks):
            if level == active - 1 and passes % 3 == 0:
                residuals, codes = output.residuals[:, level].detach(), output.codes[:, level]
                for code in range(4):  # a centroid is about the mean of its points
                    assert (codes == code).any()
                    off = (codebook.codes[code] - residuals[codes == code].mean(0)).norm()
                    assert off < 0.5 * residuals.std(0).norm()
            else:
                assert torch.equal(before[level], codebook.codes)
        assert not output.codes[:, active:].any() and not output.residuals[:, active:].any()
        total = sum(
            codebook.codes[output.codes[:, level]] for level, codebook in enumerate(model.quantizer.codebooks[:active])
        )
        torch.testing.assert_close(output.quantized, total)


def test_evaluation_does_not_advance_the_curriculum():
    model, embeddings = trained(passes=3, curriculum_passes=3)
    for _ in range(5):
        assert not model(embeddings).codes[:, 1:].any()  # the second level has no codebook yet
    assert model.num_active_levels == 1 and model.training_passes == 3
    assert model.train()(embeddings).codes[:, 1].any()
    assert model.num_active_levels == 2


def test_the_curriculum_survives_saving(tmp_path):
    model, embeddings = trained(passes=3, curriculum_passes=3, restart_passes=2)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    first = model.quantizer.codebooks[0].codes.detach().clone()
    states = []
    for one in (model, loaded):
        set_seed(5)
        for _ in range(5):
            one.train()(embeddings)
        states.append(one.state_dict())
        assert one.num_active_levels == 3 and one.training_passes == 8
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    kept = (first == model.quantizer.codebooks[0].codes).all(1)
    assert kept.any()  # the first level did not start anew


def test_without_curriculum_all_levels_start_in_the_first_pass():
    model, embeddings = trained()
    assert model.num_active_levels == 3 and make_model().num_active_levels == 3
    assert all(model(embeddings).codes[:, level].unique().numel() == 8 for level in range(3))


# restarts


@pytest.mark.parametrize("level", [0, 1, 2])
def test_dead_codes_of_every_level_restart_from_residuals(level):
    model, embeddings = trained(restart_passes=3)
    codebook = model.quantizer.codebooks[level]
    with torch.no_grad():
        codebook.codes[[2, 5]] = 1e3  # out of reach
    model.train()
    model.idle_passes.zero_()
    for passes in range(1, 4):
        assert not {2, 5} & set(model(embeddings).codes[:, level].tolist())
        assert model.idle_passes[level, [2, 5]].tolist() == [passes, passes]
    before = model.restarts.item()
    output = model(embeddings)
    assert model.restarts >= before + 2 and (model.idle_passes[level, [2, 5]] == 0).all()
    for code in (2, 5):
        away = (output.residuals[:, level] - codebook.codes[code]).norm(dim=-1)
        assert away.min() < 1e-4  # one of the batch's residuals


def test_codes_of_a_level_that_is_not_active_are_not_idle():
    model, embeddings = trained(passes=4, curriculum_passes=4, restart_passes=2)
    assert not model.idle_passes[1:].any()


# what every model must do


@pytest.mark.parametrize("config", VARIANTS)
@pytest.mark.parametrize("curriculum", [0, 5])
def test_every_parameter_gets_a_finite_gradient_in_every_pass(config, curriculum, ordered_sums):
    model, embeddings = trained(passes=1, **config, curriculum_passes=curriculum)
    loss = model.train()(embeddings).loss
    with ordered_sums():
        loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        waits = curriculum and ("codebooks.1" in name or "codebooks.2" in name)
        assert bool(parameter.grad.abs().sum() > 0) != bool(waits), name


@pytest.mark.parametrize("config", VARIANTS)
def test_training_tells_items_apart_and_uses_the_codes(config):
    model, embeddings = make_model(restart_passes=10, curriculum_passes=20, **config), make_embeddings(128)
    model.set_input_statistics(embeddings)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        loss = model(embeddings).loss
        loss.backward()
        optimizer.step()
    output = model.eval()(embeddings)
    codes = output.codes
    # the inputs' variance is 1; untrained, 1.2 and more. Of ten seeds, the worst have 0.9, 6 codes (restarted ones may
    # be idle again) and 58 items, which are 8 before training.
    assert output.reconstruction_loss < 1
    assert all(codes[:, level].unique().numel() >= 5 for level in range(3))
    assert len(codes.unique(dim=0)) > 40


@pytest.mark.parametrize("config", VARIANTS)
def test_save_and_load_is_bit_equal_with_all_state(tmp_path, config):
    model, embeddings = trained(passes=4, **config, restart_passes=2)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is RecBaseTokenizerModel and loaded.training_passes == 4
    assert model.state_dict().keys() == loaded.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    a, b = model.eval()(embeddings), loaded.eval()(embeddings)
    assert torch.equal(a.codes, b.codes) and torch.equal(a.loss, b.loss)


def test_auto_classes_and_config_round_trip(tmp_path):
    config = RecBaseTokenizerConfig(**TINY, text_encoder="org/encoder", text_encoder_settings={"pooling": "mean"})
    config.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).to_diff_dict() == config.to_diff_dict()
    assert type(AutoModel.from_config(config)) is RecBaseTokenizerModel
    default = RecBaseTokenizerConfig()
    assert default.hidden_sizes == [2048, 1024, 512, 256, 128]
    assert (default.level_sizes, default.commitment_weight) == ([1024] * 4, 0.25)
    assert default.level_offsets == [2, 1026, 2050, 3074] and default.level_layout() == {"level_sizes": [1024] * 4}
    assert default.level_offsets[-1] + default.level_sizes[-1] == 2 + 4 * 1024


@pytest.mark.parametrize("config", VARIANTS)
def test_an_item_has_the_same_codes_alone(config):
    model, embeddings = trained(**config)
    together = model(embeddings)
    assert torch.equal(together.loss, model(embeddings).loss)
    for row in range(0, len(embeddings), 7):
        alone = model(embeddings[row : row + 1])
        assert torch.equal(alone.codes[0], together.codes[row])
        torch.testing.assert_close(alone.residuals[0], together.residuals[row], atol=1e-5, rtol=1e-5)


def test_code_tensors_are_what_codes_depend_on():
    model, embeddings = trained()
    tensors = list(model.code_tensors())
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.add_(1.0)
    assert all(tensor.data_ptr() not in {p.data_ptr() for p in model.decoder.parameters()} for tensor in tensors)
    assert len(tensors) == 2 + len(list(model.encoder.parameters())) + 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_levels": 0}, "num_levels must be at least 1"),
        ({"hidden_sizes": [4, 0]}, "hidden_sizes must be positive"),
        ({"restart_passes": -1}, "restart_passes must be 0 or more"),
        ({"curriculum_passes": -1}, "curriculum_passes must be 0 or more"),
        ({"entropy_temperature": 0.0}, "entropy_temperature must be above 0"),
        ({"distance": "manhattan"}, "one of euclidean, cosine, got 'manhattan'"),
    ],
)
def test_wrong_configurations_are_named(change, message):
    with pytest.raises((ValueError, StrictDataclassClassValidationError), match=message):
        RecBaseTokenizerConfig(**change)


@pytest.mark.parametrize("sizes", [{}, {"input_dim": 40, "codebook_dim": 6, "num_levels": 2}])
def test_scale_of_the_losses(sizes):
    """What the docstring says: with that weight the loss is the program's sum of two means, times `input_dim`."""
    values = {"input_dim": 24, "hidden_sizes": [16], "codebook_dim": 5, "num_levels": 3, "codebook_size": 8, **sizes}
    width, num_levels, dim = (values[name] for name in ("input_dim", "num_levels", "codebook_dim"))
    set_seed(0)
    weight = width / (num_levels * dim)
    config = RecBaseTokenizerConfig(**values, quantization_weight=weight, entropy_weight=0, commitment_weight=0.25)
    model = RecBaseTokenizerModel(config).double()
    embeddings = torch.randn(32, width, dtype=torch.float64)
    model.set_input_statistics(embeddings)
    model.train()(embeddings)
    output = model(embeddings)
    reconstruction = (model.decoder(output.quantized) - model.standardise(embeddings)).square().mean()
    chosen = torch.stack([each.codes[output.codes[:, level]] for level, each in enumerate(model.quantizer.codebooks)])
    quantization = 1.25 * (chosen.transpose(0, 1) - output.residuals).square().mean()
    torch.testing.assert_close(output.loss.double() / width, reconstruction + quantization, rtol=1e-5, atol=1e-6)


def test_published_sizes():
    config = RecBaseTokenizerConfig()
    assert (config.codebook_dim, config.num_levels, config.codebook_size) == (128, 4, 1024)
    assert config.input_dim / (config.num_levels * config.codebook_dim) == 0.75
