"""Memory of a step of an item tokenizer's training: foretold before the training, and bounded by reading parts of a
batch twice."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import psutil  # type: ignore[import-untyped]
import torch
from torch import Tensor

from modeling_utgrec import UTGRecTokenizerModel
from modeling_utgrec.reconstruction import ITEMS_AT_A_TIME
from trainers.runtime.cpu_training import multiplies_bfloat16

logger = logging.getLogger(__name__)

STATE_GIGABYTES = 1.5  # for the backbone's states on a CPU
SHARE_OF_DEVICE = 0.5  # for them on an accelerator
GIGABYTE = 1e9
WORTH_A_LINE = 0.5 * GIGABYTE


def kept_bytes(make: Callable[[], Tensor], network: torch.nn.Module) -> int:
    """Bytes of what autograd keeps for the backward pass of a tensor that a function makes, without the weights."""
    kept = {each.untyped_storage().data_ptr() for each in (*network.parameters(), *network.buffers())}
    total = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in kept:
            kept.add(storage.data_ptr())
            total += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = make()
    del result  # until here nothing is freed, so that no two tensors have one address
    return total


@dataclass
class StepMemory:
    """
    Bytes that a training step of an item tokenizer needs.

    Args:
        pairs (`int`): of items, in a step of one process.
        weights (`int`): weights, gradients and the optimizer's state.
        per_token (`float`): states that the backbone keeps of a prompt's token.
        per_part (`float`): what it keeps beside of each part that it reads, such as weights in another precision.
        tokens (`int`): of the longest step that there can be, without padding.
        kept_tokens (`int`): of prompts whose states are kept, see [`UTGRecTokenizerModel`].
        part_tokens (`int`): that the backbone reads at a time.
        decoders (`int`): states of the decoders.
        available (`int`): what the device has left.
        slow (`bool`): whether the device has products in bfloat16, and the training does not use them.
    """

    pairs: int
    weights: int
    per_token: float
    per_part: float
    tokens: int
    kept_tokens: int
    part_tokens: int
    decoders: int
    available: int
    slow: bool

    @classmethod
    def measured(
        cls,
        network: UTGRecTokenizerModel,
        longest: dict[str, Tensor],
        pairs: int,
        part_tokens: int,
        state_gigabytes: float | None,
        dtype: torch.dtype | None,
    ) -> StepMemory:
        """
        Memory of training a network, measured on one item.

        Args:
            network ([`UTGRecTokenizerModel`]): where it will be trained.
            longest (`dict[str, torch.Tensor]`): a batch of the item with the longest prompt.
            pairs (`int`): of items, in a step of one process.
            part_tokens (`int`): that the backbone reads at a time.
            state_gigabytes (`float`, *optional*): for the backbone's states; by default by the device.
            dtype (`torch.dtype`, *optional*): of autocast.
        """
        device, config = network.device, network.config
        inputs = {name: value.to(device) for name, value in longest.items()}
        labels, latents = inputs.pop("text_labels"), inputs.pop("image_latents", None)
        has_image = inputs.pop("has_image", None)
        twice = {name: torch.cat([value, value]) for name, value in inputs.items()}
        was_training = network.training
        network.train()
        # Nothing here may change the random numbers of the training.
        devices = [] if device.type == "cpu" else [device]
        with torch.random.fork_rng(devices), torch.autocast(device.type, dtype, dtype is not None):
            one, two = (kept_bytes(partial(network.encode, **each), network) for each in (inputs, twice))  # type: ignore[arg-type]
            assert network.expand is not None  # what is trained has decoders
            hidden = network.expand(torch.zeros(2, config.num_levels, config.codebook_dim, device=device))

            def loss(decoder: int, number: int) -> Tensor:
                rows = torch.zeros(number, dtype=torch.long, device=device)
                return network.reconstruct(hidden[:number], rows, labels, latents, has_image)[decoder]

            text, image = (
                kept_bytes(partial(loss, decoder, 2), network) - kept_bytes(partial(loss, decoder, 1), network)
                for decoder in (0, 1)
            )
        network.train(was_training)
        budget, available = STATE_GIGABYTES * GIGABYTE, psutil.virtual_memory().available
        if device.type == "cuda":
            available, most = torch.cuda.mem_get_info(device)
            budget = SHARE_OF_DEVICE * most
        if state_gigabytes is not None:
            budget = state_gigabytes * GIGABYTE
        length = inputs["input_ids"].numel()
        part_tokens = max(part_tokens, length)
        per_token = (two - one) / length
        per_part = max(0.0, one - per_token * length)
        times = 1 + (config.co_reconstruction_weight > 0)
        trained = sum(each.nbytes for each in network.parameters() if each.requires_grad)
        return cls(
            pairs=pairs,
            weights=sum(each.nbytes for each in network.parameters()) + 3 * trained,
            per_token=per_token,
            per_part=per_part,
            tokens=2 * pairs * length,
            kept_tokens=int(budget / (per_token + per_part / part_tokens)),
            part_tokens=part_tokens,
            decoders=(text * min(pairs, ITEMS_AT_A_TIME) + image * pairs) * times,
            available=available,
            slow=device.type == "cpu" and dtype is None and multiplies_bfloat16(),
        )

    @property
    def states(self) -> float:
        """Bytes of the backbone's states: those that are kept, and those of a part that is read again."""
        tokens = min(self.tokens, self.kept_tokens + self.part_tokens)
        return (self.per_token + self.per_part / self.part_tokens) * tokens

    @property
    def total(self) -> float:
        """Bytes of all."""
        return self.weights + self.states + self.decoders

    def announce(self) -> None:
        """Says what a step will need if it is much, and what to do if there is too little."""
        if self.total < min(WORTH_A_LINE, self.available):
            return
        text = (
            f"item tokenizer: a step of {self.pairs} pairs needs up to {self.total / GIGABYTE:.1f} GB: "
            f"{self.weights / GIGABYTE:.1f} of weights, {self.states / GIGABYTE:.1f} of the backbone's states, "
            f"{self.decoders / GIGABYTE:.1f} of the decoders'"
        )
        if self.tokens > self.kept_tokens:
            text += f"; of up to {self.tokens:,} tokens, those beyond {self.kept_tokens:,} are read twice"
        if self.total > self.available:
            text += (
                f". THERE ARE {self.available / GIGABYTE:.1f} GB: lower state_gigabytes, prompt_tokens or "
                "per_device_train_batch_size"
            )
        if self.slow:
            text += ". It computes in float32; in bfloat16 (bf16) this processor takes about half of the time"
        logger.warning(text)
