"""Histories as a generative recommender that needs whole items can read them, and errors for those it cannot."""

import torch
from torch import Tensor
from transformers import PreTrainedConfig


def check_whole_items(config: PreTrainedConfig, input_ids: Tensor, attention_mask: Tensor) -> None:
    """
    Raises ValueError unless every history is whole semantic IDs one after the other, at least one of them and at most
    `config.max_history`.

    Args:
        config ([`~transformers.PreTrainedConfig`]): with `num_levels`, `level_sizes`, `level_offsets`, `max_history`.
        input_ids (`torch.LongTensor` of shape `(B, S)`): tokens.
        attention_mask (`torch.Tensor` of shape `(B, S)`): 0 on padding, on whichever side.
    """
    real = attention_mask != 0
    lengths = real.sum(1)
    if not lengths.all():
        user = int((lengths == 0).nonzero()[0])
        raise ValueError(
            f"The history of user {user} of the batch is empty: the recommender needs an item to go on from."
        )
    most = config.max_history * config.num_levels
    if (lengths > most).any():
        user = int((lengths > most).nonzero()[0])
        raise ValueError(
            f"The history of user {user} of the batch has {int(lengths[user])} tokens, the recommender reads "
            f"{config.max_history} items of {config.num_levels}: keep the latest, as UniversalItemTokenizer does."
        )
    level = (real.cumsum(1) - 1) % config.num_levels
    first = torch.tensor(config.level_offsets, device=level.device)[level]
    size = torch.tensor(config.level_sizes, device=level.device)[level]
    odd = real & ((input_ids < first) | (input_ids >= first + size))
    if odd.any():
        user, position = odd.nonzero()[0].tolist()
        raise ValueError(
            f"input_ids[{user}, {position}] is {input_ids[user, position].item()}, which is no code of level "
            f"{level[user, position].item()}: a history is whole semantic IDs one after the other."
        )
    broken = (lengths % config.num_levels).nonzero()
    if len(broken):
        user = int(broken[0])
        raise ValueError(
            f"The history of user {user} of the batch has {int(lengths[user])} tokens, which is no multiple of "
            f"{config.num_levels}, the codes of an item."
        )


def whole_items(config: PreTrainedConfig, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """
    Histories in which every `num_levels` columns are an item or padding, as networks read them that take items by
    their columns.

    Args:
        config, input_ids, attention_mask: as [`check_whole_items`].

    Returns:
        `input_ids` and `attention_mask` as they are, if every row is so, else with the padding on the right.

    Raises:
        ValueError: as [`check_whole_items`].
    """
    check_whole_items(config, input_ids, attention_mask)
    real, levels = attention_mask != 0, config.num_levels
    whole = input_ids.shape[1] // levels * levels
    items = real[:, :whole].unflatten(1, (-1, levels))
    if whole == input_ids.shape[1] and bool((items == items[..., :1]).all()):
        return input_ids, attention_mask
    order = (~real).to(torch.uint8).argsort(dim=1, stable=True)[:, :whole]
    return input_ids.gather(1, order), attention_mask.gather(1, order)


__all__ = ["check_whole_items", "whole_items"]
