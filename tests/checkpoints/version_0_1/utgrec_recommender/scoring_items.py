"""Log-probabilities of given items: one pass over the distinct prefixes of their identifiers."""

import torch
from torch import Tensor

from .generation_items import BeamStep, level_log_probs
from .item_trie import ItemTrie


@torch.no_grad()
def score_candidates(
    step: BeamStep, trie: ItemTrie, candidates: Tensor, normalize_over: str = "vocabulary", per_level: bool = False
) -> Tensor:
    """
    Scores each user's candidates exhaustively. A prefix that several candidates of a user share is a beam that the
    network reads once: the cost is that of a beam search as wide as the number of distinct prefixes.

    Args:
        step ([`BeamStep`]): the network with B users.
        trie ([`ItemTrie`]): the identifiers, on the device of the network.
        candidates (`torch.LongTensor` of shape `(B, C)`): item rows, -1 for padding.
        normalize_over (`str`, *optional*, defaults to `"vocabulary"`): as [`constrained_beam_search`].
        per_level (`bool`, *optional*, defaults to `False`): whether to give each level's share instead of their sum.

    Returns:
        `torch.FloatTensor` of shape `(B, C)`: sum over the levels of the codes' natural log-probabilities, as
        [`constrained_beam_search`] scores items; -inf for padding. With `per_level` of shape `(B, C, L)`: the
        log-probability of each level's code after the history and the codes before it.
    """
    path = trie.path(candidates)
    order = path[-1].argsort(dim=1)  # equal prefixes are neighbours; padding comes first and is a prefix of its own
    path = [edges.gather(1, order) for edges in path]
    # place of each candidate's prefix among the user's distinct ones of that depth
    beams = []
    for edges in path[:-1]:
        is_new = torch.zeros_like(edges)
        is_new[:, 1:] = edges[:, 1:] != edges[:, :-1]
        beams.append(is_new.cumsum(1))
    widths = (torch.stack([each[:, -1] for each in beams]).amax(1) + 1).tolist() if beams and beams[0].numel() else []
    if not candidates.numel():
        shape = (*candidates.shape, trie.num_levels) if per_level else candidates.shape
        return torch.empty(shape, device=candidates.device)

    codes = trie.codes_of(candidates).gather(1, order[..., None].expand(-1, -1, trie.num_levels))
    levels = []
    logits = step.start()
    beam = torch.zeros_like(candidates)
    nodes = torch.zeros(logits.shape[:2], dtype=torch.long, device=logits.device)
    for depth, first in enumerate(trie.level_offsets):
        tokens = codes[..., depth] + first
        log_probs = level_log_probs(logits, trie, depth, nodes, normalize_over).flatten(1)
        levels.append(log_probs.gather(1, beam * trie.level_sizes[depth] + codes[..., depth]))
        if depth < trie.num_levels - 1:
            shape = len(candidates), widths[depth]
            # candidates of one prefix write the same; a user with fewer prefixes repeats the first
            next_tokens = tokens[:, :1].expand(shape).clone().scatter_(1, beams[depth], tokens)
            parents = torch.zeros(shape, dtype=torch.long, device=beam.device).scatter_(1, beams[depth], beam)
            logits, beam = step.advance(next_tokens, parents), beams[depth]
            nodes = path[depth][:, :1].expand(shape).clone().scatter_(1, beam, path[depth])
    scores = torch.stack(levels, dim=2) if per_level else sum(levels[1:], start=levels[0])[..., None]
    scores = torch.empty_like(scores).scatter_(1, order[..., None].expand_as(scores), scores)
    scores.masked_fill_(candidates[..., None] < 0, -torch.inf)
    return scores if per_level else scores.squeeze(2)


__all__ = ["score_candidates"]
