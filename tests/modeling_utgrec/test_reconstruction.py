"""Text and image decoder against explicit computations."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist

from modeling_utgrec import UTGRecTokenizerModel, loss_cross_entropy, reconstruction
from modeling_utgrec.reconstruction import AdaLNBlock, DiffusionLoss, ImageDecoder, TextDecoder

WIDTH, VOCABULARY, LEVELS, MOST = 16, 23, 3, 9
LENGTHS = [4, 0, 9, 1]


@pytest.fixture
def text_decoder() -> TextDecoder:
    torch.manual_seed(0)
    decoder = TextDecoder(WIDTH, 2, MOST, LEVELS, 0.0)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return decoder


@pytest.fixture
def text_inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(VOCABULARY, (len(LENGTHS), max(LENGTHS)), generator=generator)
    for row, length in enumerate(LENGTHS):
        labels[row, length:] = -100
    hidden = torch.randn(len(LENGTHS), LEVELS, WIDTH, generator=generator)
    return hidden, labels, torch.randn(VOCABULARY, WIDTH, generator=generator)


def image_decoder(
    repeats: int = 3, num_steps: int = 40, trained: bool = True, attends_masks: bool = True
) -> ImageDecoder:
    torch.manual_seed(0)
    decoder = ImageDecoder(
        WIDTH,
        2,
        0.0,
        latent_channels=4,
        latent_size=3,
        num_levels=LEVELS,
        denoiser_width=8,
        denoiser_depth=2,
        num_steps=num_steps,
        repeats=repeats,
        attends_masks=attends_masks,
    )
    if trained:
        with torch.no_grad():
            for parameter in decoder.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    return decoder


def gradients(loss: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
    return torch.autograd.grad(loss, inputs)


# text


def negative_log_likelihoods(decoder: TextDecoder, hidden, labels, embeddings) -> list[torch.Tensor]:
    """Of every text token, from one item at a time, without padding and with the whole softmax written out."""
    found = []
    for h, row in zip(hidden, labels, strict=True):
        tokens = row[row != -100]
        if len(tokens) == 0:
            continue
        masks = torch.stack([decoder.mask + decoder.positions.weight[i] for i in range(len(tokens))])
        told = torch.stack([h[level] + decoder.levels.weight[level] for level in range(LEVELS)])
        states = decoder.norm(decoder.layer(torch.cat([told, masks])[None])[0, LEVELS:])
        scores = (states.double() @ embeddings.double().T).exp()
        found += [-(scores[i, token] / scores[i].sum()).log() for i, token in enumerate(tokens)]
    return found


@pytest.mark.parametrize("training", [False, True])
def test_text_loss_by_hand(text_decoder, text_inputs, training):
    text_decoder.train(training)
    hidden, labels, embeddings = text_inputs
    hidden.requires_grad_()
    loss = text_decoder.loss(hidden, labels, embeddings)
    wanted = negative_log_likelihoods(text_decoder, hidden, labels, embeddings)
    assert len(wanted) == sum(LENGTHS)
    wanted = torch.stack(wanted).mean()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    torch.testing.assert_close(*gradients(loss, hidden), *gradients(wanted, hidden), rtol=1e-4, atol=1e-6)
    with torch.no_grad():  # the layer's inference kernel
        assert text_decoder.loss(hidden, labels, embeddings).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_states_of_some_places_are_those_of_all(text_decoder, text_inputs, float32_tolerance):
    hidden, labels, _ = text_inputs
    valid = labels != -100
    places = torch.tensor([[3, 0], [1, 1], [8, 2], [0, 5]])
    states = text_decoder(hidden, valid)
    wanted = torch.stack([states[row, places[row]] for row in range(len(places))])
    torch.testing.assert_close(text_decoder(hidden, valid, places), wanted, **float32_tolerance(4, states))


@pytest.mark.parametrize("module", ["dropout", "dropout1", "dropout2"])
def test_states_of_some_places_are_dropped_from_as_those_of_all(text_decoder, text_inputs, module):
    """Each dropout of the layer takes part, and on average changes what comes out as it does with all places."""
    hidden, labels, _ = text_inputs
    valid, places = labels != -100, torch.arange(MOST).expand(len(LENGTHS), -1)
    text_decoder.train()
    plain = text_decoder(hidden, valid)[valid]
    getattr(text_decoder.layer, module).p = 0.5

    def change(*chosen):
        found = [(text_decoder(hidden, valid, *chosen)[valid] - plain).abs().mean() for _ in range(60)]
        return torch.stack(found).detach()

    some, everywhere = change(places), change()
    assert everywhere.min() > 0 and some.mean() == pytest.approx(everywhere.mean().item(), rel=0.15)


def test_drawn_tokens_estimate_the_loss_and_its_gradient(text_decoder, text_inputs):
    """Each draw is a weighted mean of some tokens' losses; over draws the mean is that of all tokens."""
    hidden, labels, embeddings = text_inputs
    hidden.requires_grad_()
    text_decoder.train()
    loss = text_decoder.loss(hidden, labels, embeddings)
    (gradient,) = gradients(loss, hidden)
    text_decoder.labels_per_item = 3
    torch.manual_seed(3)
    draws = [text_decoder.loss(hidden, labels, embeddings) for _ in range(600)]
    estimates = torch.stack([each.detach() for each in draws])
    of_draws = torch.stack([gradients(each, hidden)[0] for each in draws])
    assert len(estimates.unique()) > 50
    error = estimates.std() / len(draws) ** 0.5
    assert abs(estimates.mean() - loss) < 4 * error and error < 0.02 * loss
    errors = of_draws.std(0) / len(draws) ** 0.5
    assert ((of_draws.mean(0) - gradient).abs() <= 5 * errors + 1e-6).all() and errors.max() < gradient.abs().max()


def test_a_draw_is_the_weighted_sum_of_its_tokens(text_decoder, text_inputs, monkeypatch):
    hidden, labels, embeddings = text_inputs
    text_decoder.train()
    text_decoder.labels_per_item = 3
    losses = negative_log_likelihoods(text_decoder, hidden, labels, embeddings)
    order = torch.tensor([0.9, 0.1, 0.8, 0.7, 0.2, 0.3, 0.4, 0.5, 0.6])  # drawn are 0, 2, 3 of the first text
    monkeypatch.setattr(torch, "rand", lambda shape, **kwargs: order[: shape[1]].expand(shape))
    first, third, fourth = losses[:4], losses[4:13], losses[13:]
    wanted = 4 / 3 * (first[0] + first[2] + first[3]) + 9 / 3 * (third[0] + third[2] + third[3]) + fourth[0]
    loss = text_decoder.loss(hidden, labels, embeddings)
    assert loss.item() == pytest.approx(wanted.item() / sum(LENGTHS), rel=1e-5)


@pytest.mark.parametrize("change", [{"training": False}, {"most": 9}])
def test_all_tokens_where_none_need_be_drawn(text_decoder, text_inputs, change):
    text_decoder.train(change.get("training", True))
    wanted = text_decoder.loss(*text_inputs)
    text_decoder.labels_per_item = change.get("most", 3)
    assert torch.equal(text_decoder.loss(*text_inputs), wanted)


@pytest.mark.parametrize("most", [None, 3])
def test_states_made_again_for_the_gradient_change_nothing(
    text_decoder, text_inputs, monkeypatch, float32_tolerance, most
):
    """With dropout: a part that is made again draws the same."""
    hidden, labels, embeddings = text_inputs
    hidden.requires_grad_()
    text_decoder.train()
    text_decoder.labels_per_item = most
    inputs = (hidden, *text_decoder.parameters())
    results, calls = [], []
    text_decoder.layer.linear1.register_forward_hook(lambda *_: calls.append(1))
    for items in (4, 3, 1):
        monkeypatch.setattr(reconstruction, "ITEMS_AT_A_TIME", items)
        torch.manual_seed(0)
        loss = text_decoder.loss(hidden, labels, embeddings)
        results.append((loss, *gradients(loss, *inputs)))
    assert len(calls) == 1 + 2 * 2 + 2 * 4
    for other in results[1:]:
        for got, wanted in zip(other, results[0], strict=True):
            torch.testing.assert_close(got, wanted, **float32_tolerance(8))


def test_states_made_again_drop_the_same(text_decoder, text_inputs, monkeypatch):
    """Against a finite difference of the loss with the same random numbers."""
    hidden, labels, embeddings = text_inputs
    hidden.requires_grad_()
    text_decoder.train().double()
    text_decoder.layer.dropout.p = text_decoder.layer.dropout1.p = 0.5
    text_decoder.labels_per_item = 3
    monkeypatch.setattr(reconstruction, "ITEMS_AT_A_TIME", 1)

    def loss(bias):
        with torch.no_grad():
            text_decoder.layer.linear2.bias.copy_(bias)
        torch.manual_seed(0)
        return text_decoder.loss(hidden.double(), labels, embeddings.double())

    start = text_decoder.layer.linear2.bias.detach().clone()
    (gradient,) = gradients(loss(start), text_decoder.layer.linear2.bias)
    step = 1e-5 * torch.randn(WIDTH, dtype=torch.float64)
    difference = (loss(start + step) - loss(start - step)) / 2
    assert difference.item() == pytest.approx((gradient * step).sum().item(), rel=1e-3)


def test_text_decoder_reads_nothing_but_representations_and_positions(text_decoder, text_inputs):
    """Mask rate 100 %: which tokens a text has can't change the states, and every level counts for every position."""
    hidden, labels, _ = text_inputs
    hidden.requires_grad_()
    states = text_decoder(hidden, labels != -100)
    other = text_decoder(hidden, torch.where(labels == -100, labels, (labels + 1) % VOCABULARY) != -100)
    assert torch.equal(states, other)
    (gradient,) = gradients(states[2, -1].square().sum(), hidden)
    assert (gradient[2].abs().sum(1) > 0).all() and not gradient[[0, 1, 3]].any()
    assert not torch.allclose(states[2, 0], states[2, 1])


def test_the_order_of_the_levels_counts(text_decoder, text_inputs):
    hidden, labels, embeddings = text_inputs
    swapped = hidden[:, [1, 0, 2]]
    losses = [text_decoder.loss(each, labels, embeddings).item() for each in (hidden, swapped)]
    assert abs(losses[0] - losses[1]) > 1e-3
    with torch.no_grad():
        text_decoder.levels.weight.copy_(text_decoder.levels.weight[0].clone().expand(LEVELS, -1))
    losses = [text_decoder.loss(each, labels, embeddings).item() for each in (hidden, swapped)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_no_text_at_all(text_decoder, text_inputs):
    hidden, labels, embeddings = text_inputs
    hidden.requires_grad_()
    loss = text_decoder.loss(hidden, torch.full_like(labels, -100), embeddings)
    loss.backward()
    assert loss.item() == 0
    for parameter in [hidden, *text_decoder.parameters()]:
        assert parameter.grad is not None and not parameter.grad.any()


@pytest.mark.parametrize("chunk", [1, 5, 13, 14, 100])
def test_chunks_of_logits_change_nothing(text_decoder, text_inputs, monkeypatch, chunk, float32_tolerance):
    hidden, labels, embeddings = text_inputs
    inputs = [hidden.requires_grad_(), embeddings.requires_grad_(), *text_decoder.parameters()]
    whole = text_decoder.loss(hidden, labels, embeddings)
    monkeypatch.setitem(loss_cross_entropy.MOST_LOGITS, "cpu", chunk * len(embeddings))
    chunked = text_decoder.loss(hidden, labels, embeddings)
    torch.testing.assert_close(chunked, whole, **float32_tolerance(3))  # the layer, the logits and their softmax
    for got, wanted in zip(gradients(chunked, *inputs), gradients(whole, *inputs), strict=True):
        torch.testing.assert_close(got, wanted, **float32_tolerance(3, wanted))
    with torch.no_grad():
        torch.testing.assert_close(text_decoder.loss(hidden, labels, embeddings), whole, **float32_tolerance(3))


# images


def cosine_alpha_bar(num_steps: int) -> np.ndarray:
    """Nichol and Dhariwal 2021, Eq. 17, with betas clipped at 0.999."""

    def f(t):
        return math.cos((t / num_steps + 0.008) / 1.008 * math.pi / 2) ** 2

    product, values = 1.0, []
    for t in range(num_steps):
        product *= 1 - min(1 - f(t + 1) / f(t), 0.999)
        values.append(product)
    return np.array(values)


@pytest.mark.parametrize("num_steps", [40, 1000])
def test_noise_schedule_is_the_cosine(num_steps):
    diffusion = DiffusionLoss(4, WIDTH, 8, 1, num_steps)
    np.testing.assert_allclose(diffusion.scheduler.alphas_cumprod, cosine_alpha_bar(num_steps), rtol=0, atol=1e-6)


def test_diffusion_loss_by_hand():
    diffusion = image_decoder().diffusion
    condition, targets = torch.randn(64, WIDTH), torch.randn(64, 4)
    torch.manual_seed(3)
    loss = diffusion(condition, targets)
    torch.manual_seed(3)
    steps, noise = torch.randint(40, (64,)), torch.randn(64, 4)
    alpha_bar = cosine_alpha_bar(40)
    errors = []
    for i, t in enumerate(steps.tolist()):
        noisy = math.sqrt(alpha_bar[t]) * targets[i] + math.sqrt(1 - alpha_bar[t]) * noise[i]
        predicted = diffusion.denoiser(noisy[None], torch.tensor([t]), condition[i : i + 1])[0]
        errors.append(((noise[i] - predicted) ** 2).mean().item())
    assert loss.item() == pytest.approx(np.mean(errors), rel=1e-5)


def test_a_new_denoiser_predicts_no_noise():
    diffusion = DiffusionLoss(4, WIDTH, 8, 3, 1000)
    torch.manual_seed(0)
    loss = diffusion(torch.randn(20000, WIDTH), 5 * torch.randn(20000, 4))
    assert loss.item() == pytest.approx(1, abs=0.02)  # E eps^2
    assert not diffusion.denoiser(torch.randn(5, 4), torch.arange(5), torch.randn(5, WIDTH)).any()


def test_modulated_block_by_hand():
    torch.manual_seed(0)
    block, x, condition = AdaLNBlock(6), torch.randn(3, 6), torch.randn(3, 6)
    assert torch.equal(block(x, condition), x)  # starts as the identity
    with torch.no_grad():
        for parameter in block.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    shift, scale, gate = torch.split(condition @ block.modulation.weight.T + block.modulation.bias, 6, dim=1)
    normed = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-6).sqrt()
    normed = normed * block.norm.weight + block.norm.bias
    wanted = x + gate * block.mlp(normed * (1 + scale) + shift)
    torch.testing.assert_close(block(x, condition), wanted, rtol=1e-5, atol=1e-5)


def test_denoiser_reads_noisy_values_timestep_and_condition():
    denoiser = image_decoder().diffusion.denoiser
    x, steps, condition = torch.randn(1, 4), torch.tensor([3]), torch.randn(1, WIDTH)
    before = denoiser(x, steps, condition)
    for changed in [(x + 1, steps, condition), (x, steps + 1, condition), (x, steps, condition + 1)]:
        assert not torch.allclose(before, denoiser(*changed), atol=1e-5)


def test_the_schedule_keeps_its_precision_in_bfloat16():
    """In bfloat16 alpha-bar of the first timesteps is 1: their noise would vanish, and nothing could predict it."""
    diffusion, seen = DiffusionLoss(4, WIDTH, 8, 1, 1000), []
    diffusion.denoiser.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    diffusion = diffusion.to(torch.bfloat16)
    torch.manual_seed(0)
    targets = torch.zeros(4000, 4, dtype=torch.bfloat16)
    loss = diffusion(torch.zeros(4000, WIDTH, dtype=torch.bfloat16), targets)
    torch.manual_seed(0)
    first = torch.randint(1000, (4000,)) < 10
    assert seen[0].dtype == torch.bfloat16 and loss.isfinite()
    assert first.sum() > 10 and (seen[0][first] != 0).all()


def test_image_loss_pairs_every_latent_with_the_state_at_its_place(monkeypatch):
    decoder, calls = image_decoder(repeats=3), []
    latents = torch.randn(2, 4, 3, 3)
    monkeypatch.setattr(decoder.diffusion, "forward", lambda *args: calls.append(args) or torch.zeros(()))
    hidden = torch.randn(2, LEVELS, WIDTH)
    decoder.loss(hidden, latents)
    ((condition, targets),) = calls
    assert len(condition) == len(targets) == 3 * 2 * 9
    states = decoder(hidden, torch.ones(2, 9, dtype=torch.bool))
    for repeat in range(3):
        for image in range(2):
            for place in range(9):
                row = (repeat * 2 + image) * 9 + place
                assert torch.equal(targets[row], latents[image, :, place // 3, place % 3])
                torch.testing.assert_close(condition[row], states[image, place])


def test_image_loss_reaches_every_parameter():
    decoder, hidden = image_decoder(), torch.randn(2, LEVELS, WIDTH, requires_grad=True)
    decoder.loss(hidden, torch.randn(2, 4, 3, 3)).backward()
    for name, parameter in [("hidden", hidden), *decoder.named_parameters()]:
        assert parameter.grad is not None and parameter.grad.any(), name


@pytest.mark.parametrize("attends_masks", [True, False])
def test_what_an_image_decoder_attends_to(attends_masks):
    decoder, hidden = image_decoder(attends_masks=attends_masks), torch.randn(2, LEVELS, WIDTH)
    layer, states = decoder.layer, decoder(hidden, torch.ones(2, 9, dtype=torch.bool))
    for image in range(2):
        for place in range(9):
            mask = (decoder.mask + decoder.positions.weight[place])[None]
            told = layer.norm1(hidden[image] + decoder.levels.weight)
            if attends_masks:
                told = torch.cat([told, layer.norm1(decoder.mask + decoder.positions.weight[:9])])
            attended, _ = layer.self_attn(layer.norm1(mask), told, told, need_weights=False)
            state = mask + attended
            state = state + layer.linear2(torch.nn.functional.gelu(layer.linear1(layer.norm2(state))))
            torch.testing.assert_close(states[image, place], decoder.norm(state)[0])


def test_an_image_decoder_learns_to_read():
    """A quarter of the latents' variance is what the first level says. A layer that may attend to the mask vectors too
    has looked away by the time that the denoiser could use it: 300 steps then gain .001, not .04."""
    torch.manual_seed(0)
    decoder = ImageDecoder(
        32, 2, 0.0, 4, 4, LEVELS, denoiser_width=32, denoiser_depth=2, num_steps=100, repeats=4, attends_masks=False
    )
    torch.nn.init.normal_(decoder.positions.weight, std=0.02)
    torch.nn.init.normal_(decoder.levels.weight, std=0.02)
    told, noise = torch.randn(400, 32), torch.randn(400, 4, 4, 4)
    hidden = torch.cat([told[:, None], torch.randn(400, LEVELS - 1, 32)], dim=1)
    told = (told @ torch.randn(32, 64) / 32**0.5).view(400, 4, 4, 4)
    latents = torch.randn(4, 4, 4) + 0.5 * told + 0.75**0.5 * noise
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=2e-3)
    for _ in range(300):
        rows = torch.randint(400, (64,))
        optimizer.zero_grad()
        decoder.loss(hidden[rows], latents[rows]).backward()
        optimizer.step()
    losses = []
    with torch.no_grad():
        for read in (hidden, hidden.roll(1, 0)):
            torch.manual_seed(1)
            losses.append(float(decoder.loss(read, latents)))
    assert losses[0] < losses[1] - 0.02


def test_no_image_at_all():
    decoder, hidden = image_decoder(), torch.randn(2, LEVELS, WIDTH, requires_grad=True)
    loss = decoder.loss(hidden[:0], torch.zeros(0, 4, 3, 3))
    loss.backward()
    assert loss.item() == 0
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None and not parameter.grad.any(), name


def test_denoiser_learns_the_noise_of_known_targets():
    """With one target the noise can be told from the noisy values: the loss falls far below that of no prediction."""
    torch.manual_seed(0)
    diffusion = DiffusionLoss(2, 4, 32, 1, 100)
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=1e-2)
    condition, targets = torch.ones(256, 4), torch.tensor([[1.0, -1.0]]).repeat(256, 1)
    losses = []
    for _ in range(60):
        loss = diffusion(condition, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.8 and np.mean(losses[-10:]) < 0.35


# processes

IMAGES_OF_THE_FIRST = (4, 3, 2)  # of four


def image_loss_of(images: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of some of four images, none of them given as a batch without images, and its gradient. The errors are
    no random ones, as those of each process would be others."""
    decoder = image_decoder().train()
    generator = torch.Generator().manual_seed(2)
    hidden, latents = torch.randn(4, LEVELS, WIDTH, generator=generator), torch.randn(4, 4, 3, 3, generator=generator)
    decoder.diffusion.forward = lambda condition, targets: (condition[:, :4] - targets).square().mean()
    rows = torch.arange(4)[images]
    given = (latents, torch.ones(4, dtype=torch.bool)) if len(rows) else (None, None)
    network = SimpleNamespace(image_decoder=decoder, config=SimpleNamespace(latent_channels=4))
    loss = UTGRecTokenizerModel._image_loss(network, hidden[images], rows, *given)
    return loss.detach(), *gradients(loss, decoder.mask)


@pytest.mark.distributed
def test_images_weigh_the_same_on_whichever_process(run_two_processes, tmp_path, float32_tolerance):
    """Means over two processes are those of one with all images, however many of them each process has."""
    run_two_processes(__file__, tmp_path)
    results = [torch.load(tmp_path / f"result{rank}.pt") for rank in (0, 1)]
    loss, gradient = image_loss_of(slice(4))
    for first, (one, one_gradient), (other, other_gradient) in zip(IMAGES_OF_THE_FIRST, *results, strict=True):
        assert one > other or first == 2
        torch.testing.assert_close((one + other) / 2, loss, **float32_tolerance(4))
        torch.testing.assert_close(
            (one_gradient + other_gradient) / 2, gradient, **float32_tolerance(4, gradient), msg=str(first)
        )


def run_worker(folder: str) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    found = [image_loss_of(slice(first, 4) if rank else slice(first)) for first in IMAGES_OF_THE_FIRST]
    torch.save(found, Path(folder) / f"result{rank}.pt")
    dist.barrier()
