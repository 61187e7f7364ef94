"""Alignment of co-occurring items: InfoNCE over the batches of all processes (UTGRec, Eq. 11)."""

import torch
import torch.distributed as dist
import torch.nn.functional as F

from .process_rows import gathered, process_rank, world_size


def same_targets(targets: torch.Tensor) -> torch.Tensor:
    """Which positives of [`info_nce`] are of the same item: targets `(batch,)` to bool
    `(batch, batch * processes)`."""
    every = targets
    if world_size() > 1:
        parts = [torch.empty_like(targets) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, targets.contiguous())
        every = torch.cat(parts)
    return targets[:, None] == every


def info_nce(
    anchors: torch.Tensor,
    positives: torch.Tensor,
    temperature: float,
    excluded: torch.Tensor | None = None,
    excluded_similarity: float = float("-inf"),
    own_negatives: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean over levels and anchors of InfoNCE on L2-normalised continuous representations.

    Args:
        anchors (`torch.FloatTensor` of shape `(batch, num_levels, dim)`): representations of the items.
        positives (`torch.FloatTensor` of shape `(batch, num_levels, dim)`): representations of one co-occurring item
            each. The negatives of an anchor are the other positives of the batches of all processes, which must be of
            one size; their gradient is gathered too.
        temperature (`float`): divides the cosine similarities.
        excluded (`torch.BoolTensor` of shape `(batch, batch * processes)`, *optional*): positives that are no
            negatives of an anchor, such as its own neighbours; an anchor's own positive is never left out.
        excluded_similarity (`float`, *optional*, defaults to -inf): cosine that those count with.
        own_negatives (`torch.FloatTensor` of shape `(batch, num_levels, dim)`, *optional*): one more negative of each
            anchor, which the others don't have.
    """
    anchors = F.normalize(anchors.float(), dim=-1)
    positives = gathered(F.normalize(positives.float(), dim=-1))
    with torch.autocast(anchors.device.type, enabled=False):  # in bfloat16, the temperature blows up the rounding
        logits = torch.einsum("bld,cld->lbc", anchors, positives) / temperature
    own = None
    if own_negatives is not None:
        own = (anchors * F.normalize(own_negatives.float(), dim=-1)).sum(-1).T[..., None] / temperature
    return in_batch_cross_entropy(logits, excluded, excluded_similarity / temperature, own)


def in_batch_cross_entropy(
    logits: torch.Tensor,
    excluded: torch.Tensor | None = None,
    excluded_logit: float = float("-inf"),
    own_negatives: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean cross-entropy of anchors with their own positives.

    Args:
        logits (`torch.FloatTensor` of shape `(num_levels, batch, batch * processes)`): of all pairs of an anchor and a
            positive of the batches of all processes.
        excluded, excluded_logit (*optional*): as in [`info_nce`].
        own_negatives (`torch.FloatTensor` of shape `(num_levels, batch, 1)`, *optional*): logits of each anchor with
            one more negative.
    """
    rows = torch.arange(logits.shape[1], device=logits.device)
    labels = rows + process_rank() * len(rows)
    if excluded is not None:
        excluded = excluded.clone()
        excluded[rows, labels] = False
        logits = logits.masked_fill(excluded, excluded_logit)
    if own_negatives is not None:
        logits = torch.cat([logits, own_negatives], dim=-1)
    return F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(logits)))
