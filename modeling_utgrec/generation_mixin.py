"""Base of the generative recommenders: recommending items and scoring given ones, whatever the network."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .generation_items import BeamStep, RecommendOutput, constrained_beam_search, level_log_probs
from .generation_memory import ItemSources, UserMemory, history_rows, item_sources
from .generation_rules import ItemRules, check_range
from .item_memory import ItemMemory
from .item_trie import ItemTrie

# Rows of the network (users × beams) that a CPU works on at a time; from 1,000 to 3,000 there is little difference.
ROWS_PER_BLOCK = 2048


class ItemRecommendation(PreTrainedModel):
    """
    `recommend` and `score_items` for a [`~transformers.PreTrainedModel`] whose configuration has `level_sizes`,
    `level_offsets` and `normalize_over`. The model says in `_search_step` how it is read.
    """

    def _search_step(self, trie: ItemTrie) -> Callable[[Tensor, Tensor], BeamStep]:
        """Prepares the network for one search among the items of `trie`. Returns what makes the step of users from
        their histories `[B, S]` and the histories' mask, 0 on padding."""
        raise NotImplementedError

    @torch.no_grad()
    def recommend(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        trie: ItemTrie,
        num_items: int = 10,
        num_beams: int = 50,
        exclude: Tensor | None = None,
        rules: ItemRules | None = None,
        memory: ItemMemory | None = None,
        return_sources: bool = False,
    ) -> RecommendOutput:
        """
        Recommends items by beam search over the semantic IDs that exist (UTGRec, section 2.4). Dropout is off whatever
        the model's mode.

        With `exclude` or `rules` it is the search over the items that a user may get: as many of them come back as
        were asked for, whenever there are so many.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`): codes of the history as token ids.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
                0 on padding, on whichever side; by default every token but the padding token is read.
            trie ([`ItemTrie`]): semantic IDs of the catalogue. Moved to the model's device if it is elsewhere: keep it
                there to save the copy.
            num_items (`int`, *optional*, defaults to 10): items to return per user.
            num_beams (`int`, *optional*, defaults to 50): width of the beam, raised to `num_items` if below.
            exclude (`torch.LongTensor` of shape `(batch_size, num_excluded)`, *optional*):
                Item rows never to return, for instance those seen; padded with -1.
            rules ([`ItemRules`], *optional*): what each user may get, made for this trie.
            memory ([`ItemMemory`], *optional*): transitions and content of the trie's items, to rank by the mixture of
                network and memory (see `generation_memory.py`). Moved as the trie is.
            return_sources (`bool`, *optional*, defaults to `False`):
                Whether to tell for each item how much of it is of the network and of the memory, see [`ItemSources`].

        Returns:
            [`RecommendOutput`]: item rows, scores and, when the trie has them, item ids.

        Raises:
            FloatingPointError: if the network gives NaN, by which nothing can be ranked.
            ValueError: if the trie is not of this model's vocabulary, rules or memory are not of the trie, a token id
                or an item row is out of range, or shapes disagree; if sources are asked for without a memory.
        """
        if num_items < 1 or num_beams < 1:
            raise ValueError(f"num_items and num_beams must be at least 1, got {num_items} and {num_beams}.")
        input_ids, attention_mask = self._checked_inputs(input_ids, attention_mask, trie)
        batch_size, num_beams = len(input_ids), max(num_beams, num_items)
        trie = trie.to(self.device)
        rules = None if rules is None else rules.on(trie)
        if exclude is not None:
            if exclude.ndim != 2 or len(exclude) != batch_size:
                raise ValueError(f"exclude must have shape ({batch_size}, num_excluded), got {tuple(exclude.shape)}.")
            if exclude.shape[1]:
                rules = (ItemRules(trie) if rules is None else rules).excluding(exclude)
        if rules is not None and rules.num_users not in (1, batch_size):
            raise ValueError(
                f"the rules are for {rules.num_users} users, the batch has {batch_size}: `select` a row for each user."
            )
        recalled = self._recalled(memory, input_ids, attention_mask, trie, needed=return_sources)
        rows = torch.empty(batch_size, num_items, dtype=torch.long, device=self.device)
        scores = torch.empty(batch_size, num_items, device=self.device)
        sources: list[tuple[Tensor | slice, ItemSources]] = []
        with self._without_dropout():
            make_step = self._search_step(trie)
            for users, columns in user_blocks(attention_mask, num_beams):
                step = make_step(input_ids[users, columns], attention_mask[users, columns])
                rules_of_users = rules
                if rules is not None and isinstance(users, Tensor):
                    rules_of_users = rules.select(users)
                memory_of_users = None if recalled is None else recalled(users)
                rows[users], scores[users] = constrained_beam_search(
                    step, trie, num_items, num_beams, rules_of_users, self.config.normalize_over, memory_of_users
                )
                if return_sources:
                    assert memory_of_users is not None
                    sources.append((users, item_sources(memory_of_users, rules_of_users, rows[users], scores[users])))
        self._check_scores(scores)
        item_ids = None
        if trie.item_ids is not None:
            item_ids = [[trie.item_ids[row] for row in user if row >= 0] for user in rows.tolist()]
        return RecommendOutput(
            item_rows=rows,
            scores=scores,
            item_ids=item_ids,
            sources=_joined(sources, batch_size) if return_sources else None,
        )

    @torch.no_grad()
    def score_items(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        trie: ItemTrie,
        candidates: Tensor,
        per_level: bool = False,
        memory: ItemMemory | None = None,
    ) -> Tensor:
        """
        Log-probability of given items for given users: what [`~ItemRecommendation.recommend`] returns as
        scores, of every candidate. The network reads each distinct prefix of a user's candidates once.

        Args:
            input_ids, attention_mask, trie: as for `recommend`.
            candidates (`torch.LongTensor` of shape `(batch_size, num_candidates)`): item rows, padded with -1.
            per_level (`bool`, *optional*, defaults to `False`): whether to give the log-probability of each code
                instead of their sum.
            memory ([`ItemMemory`], *optional*): as for `recommend`: scores are those of the mixture.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, num_candidates)`, or `(batch_size, num_candidates, num_levels)`
            with `per_level`: scores, -inf where the candidate is -1.

        Raises:
            FloatingPointError: if the network gives NaN.
            ValueError: as for `recommend`.
        """
        input_ids, attention_mask = self._checked_inputs(input_ids, attention_mask, trie)
        if candidates.ndim != 2 or len(candidates) != len(input_ids):
            raise ValueError(
                f"candidates must have shape ({len(input_ids)}, num_candidates), got {tuple(candidates.shape)}."
            )
        check_range("candidates", candidates, -1, trie.num_items, "of items in the trie (-1 is padding)")
        trie, candidates = trie.to(self.device), candidates.to(self.device)
        recalled = self._recalled(memory, input_ids, attention_mask, trie)
        shape = (*candidates.shape, trie.num_levels) if per_level else candidates.shape
        scores = torch.empty(shape, device=self.device)
        with self._without_dropout():
            make_step = self._search_step(trie)
            for users, columns in user_blocks(attention_mask, candidates.shape[1]):
                step = make_step(input_ids[users, columns], attention_mask[users, columns])
                memory_of_users = None if recalled is None else recalled(users)
                scores[users] = score_candidates(
                    step, trie, candidates[users], self.config.normalize_over, per_level, memory_of_users
                )
        self._check_scores(scores)
        return scores

    def _check_scores(self, scores: Tensor) -> None:
        """Raises FloatingPointError, which says where it comes from, if a user has NaN among the scores. A search
        takes NaN for the best there is, so what any of its levels had is in what it returns: one look is enough."""
        if not scores.isnan().any():
            return
        users = int(scores.isnan().flatten(1).any(1).sum())
        broken = [name for name, weight in self.named_parameters() if not weight.isfinite().all()]
        reason = f"its weights {broken[:3]} hold NaN or infinity" if broken else "its numbers overflow"
        raise FloatingPointError(
            f"{type(self).__name__} gives NaN for {users} of {len(scores)} users, by which nothing can be ranked: "
            f"{reason}. Take a checkpoint from before the training diverged."
        )

    def _recalled(
        self,
        memory: ItemMemory | None,
        input_ids: Tensor,
        attention_mask: Tensor,
        trie: ItemTrie,
        needed: bool = False,
    ) -> Callable[[Tensor | slice], UserMemory] | None:
        """What a memory says of some of the users; `None` where it has no say and need not explain itself."""
        if memory is None:
            if needed:
                raise ValueError("return_sources needs a memory: without one every item is the network's.")
            return None
        if memory.num_items != trie.num_items:
            raise ValueError(
                f"the memory is of {memory.num_items} items, the trie has {trie.num_items}: build it for this "
                "catalogue, or `select` its items."
            )
        if memory.is_silent and not needed:
            return None
        memory = memory.to(self.device)
        rows = history_rows(input_ids, attention_mask, trie, memory.settings.max_history)
        return lambda users: UserMemory(memory, rows[users], trie)

    def _checked_inputs(
        self, input_ids: Tensor, attention_mask: Tensor | None, trie: ItemTrie
    ) -> tuple[Tensor, Tensor]:
        """Histories and mask on the model's device; looked at where they are, so as not to wait for a GPU."""
        self._check_trie(trie)
        if input_ids.ndim != 2 or input_ids.numel() == 0:
            raise ValueError(f"input_ids must have shape (batch_size, sequence_length), got {tuple(input_ids.shape)}.")
        check_range("input_ids", input_ids, 0, self.config.vocab_size, "of the vocabulary")
        if attention_mask is None:
            attention_mask = input_ids.ne(self.config.pad_token_id)
        if attention_mask.shape != input_ids.shape:
            raise ValueError(
                f"attention_mask has shape {tuple(attention_mask.shape)}, input_ids {tuple(input_ids.shape)}."
            )
        input_ids, attention_mask = self._readable_histories(input_ids, attention_mask)
        return input_ids.to(self.device), attention_mask.to(self.device)

    def _readable_histories(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Histories and mask as the network reads them. Raises ValueError for a history that it cannot read, where
        some cannot be read."""
        return input_ids, attention_mask

    @contextmanager
    def _without_dropout(self) -> Iterator[None]:
        """Eval mode inside, and each module's own mode after it."""
        in_training = [module for module in self.modules() if module.training]
        for module in in_training:
            module.training = False
        try:
            yield
        finally:
            for module in in_training:
                module.training = True

    def _check_trie(self, trie: ItemTrie) -> None:
        expected = list(self.config.level_sizes), list(self.config.level_offsets)
        found = list(trie.level_sizes), list(trie.level_offsets)
        if expected != found:
            raise ValueError(
                f"the trie is not of this model's vocabulary: expected level_sizes {expected[0]} with level_offsets "
                f"{expected[1]}, found {found[0]} with {found[1]}. Build it with the item tokenizer that the model "
                "was trained with."
            )


def user_blocks(attention_mask: Tensor, rows_per_user: int) -> list[tuple[Tensor | slice, slice]]:
    """
    Users to search together: on a CPU few enough for their states to stay in its caches, and alike in length, so that
    little padding is read. On other devices one block of all users, without a look at the mask.

    Args:
        attention_mask (`torch.Tensor` of shape `(B, S)`): 0 on padding.
        rows_per_user (`int`): rows of the network per user, such as the beams.

    Returns:
        `list[tuple]`: users of a block, and the columns up to the end of their longest history.
    """
    if attention_mask.device.type != "cpu":
        return [(slice(None), slice(None))]
    batch_size, length = attention_mask.shape
    ends = torch.where(attention_mask != 0, torch.arange(1, length + 1), 1).amax(1)
    users_per_block = max(1, ROWS_PER_BLOCK // max(rows_per_user, length))
    blocks = ends.argsort(stable=True).tensor_split(-(-batch_size // users_per_block))
    return [(users, slice(int(ends[users].max()))) for users in blocks]


def _joined(parts: list[tuple[Tensor | slice, ItemSources]], batch_size: int) -> ItemSources:
    """The sources of all users, in their order."""
    longest = max(part.history_rows.shape[1] for _, part in parts)
    joined: dict[str, Tensor] = {}
    for users, part in parts:
        for name, values in part._asdict().items():
            fill = -1 if name == "history_rows" else 0
            if name in ("transitions", "content", "history_rows"):  # the latest item stands last
                values = nn.functional.pad(values, (longest - values.shape[-1], 0), value=fill)
            if name not in joined:
                joined[name] = values.new_full((batch_size, *values.shape[1:]), fill)
            joined[name][users] = values
    return ItemSources(**joined)


@torch.no_grad()
def score_candidates(
    step: BeamStep,
    trie: ItemTrie,
    candidates: Tensor,
    normalize_over: str = "vocabulary",
    per_level: bool = False,
    memory: UserMemory | None = None,
) -> Tensor:
    """
    Scores each user's candidates exhaustively. A prefix that several candidates of a user share is a beam that the
    network reads once: the cost is that of a beam search as wide as the number of distinct prefixes.

    Args:
        step ([`BeamStep`]): the network with B users.
        trie ([`ItemTrie`]): the semantic IDs, on the device of the network.
        candidates (`torch.LongTensor` of shape `(B, C)`): item rows, -1 for padding.
        normalize_over (`str`, *optional*, defaults to `"vocabulary"`): as [`constrained_beam_search`].
        per_level (`bool`, *optional*, defaults to `False`): whether to give each level's share instead of their sum.
        memory ([`UserMemory`], *optional*): what a memory says of the B users.

    Returns:
        `torch.FloatTensor` of shape `(B, C)`: sum over the levels of the codes' natural log-probabilities, as
        [`constrained_beam_search`] scores items; -inf for padding. With `per_level` of shape `(B, C, L)`: the
        log-probability of each level's code after the history and the codes before it. With a memory these are of the
        mixture, a level's that of the prefix with its code less that of the prefix before.
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
    if memory is not None:
        levels = _mixed(levels, memory, path)
    scores = torch.stack(levels, dim=2) if per_level else sum(levels[1:], start=levels[0])[..., None]
    scores = torch.empty_like(scores).scatter_(1, order[..., None].expand_as(scores), scores)
    scores.masked_fill_(candidates[..., None] < 0, -torch.inf)
    return scores if per_level else scores.squeeze(2)


def _mixed(levels: list[Tensor], memory: UserMemory, path: list[Tensor]) -> list[Tensor]:
    """Log-probabilities `[B, C]` of each level's code in the mixture, from the network's and the items' edges."""
    mass = memory.start()
    mixed, before, network = [], torch.zeros_like(levels[0]), torch.zeros_like(levels[0])
    for level, (log_probs, edges) in enumerate(zip(levels, path, strict=True)):
        network = network + log_probs
        prefix = mass.mix_edges(level, edges, network)
        mixed.append(prefix - before)
        before = prefix
    return mixed


__all__ = ["ItemRecommendation", "score_candidates", "user_blocks"]
