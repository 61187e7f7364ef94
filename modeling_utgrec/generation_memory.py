"""Mixture of a network and an item memory inside the beam search.

    P(i) = (1 - g)·P_net(i) + g·p_mem(i)        p_mem(i) ∝ (exp(m_u(i)/τ) - 1)₊ + 1e-6·exp(m_u(i)/τ)

over all items that a user may get. The -1 is what a softmax has not: an item of which the memory says nothing
(m = 0) gets a millionth in place of exp(0), for thousands of those would make a prefix likely by their number.

The mass of a prefix is the sum over the items below it, `M(prefix) = Σ p_mem(i)`, so the search ranks prefixes by
`log((1 - g)·P_net(prefix) + g·M(prefix))`: at full length it is the mixture above, and a beam as wide as the catalogue
finds its best items. With g = 0 it is the network's search, with g = 1 the items come in the order of `m_u`.

A user's memory is sparse: the items in the rows of its history, the *candidates*. All other items have m = 0, so below
a prefix they count 1e-6 each, and how many there are the trie and the rules say. Sorted by semantic ID the candidates
below a prefix are neighbours; their sums are of segments, in float64 and relative to the largest, so that a prefix
keeps its precision however small its share.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .generation_cells import largest, put
from .generation_rules import ItemRules, RulesOfSearch
from .item_memory import ItemMemory
from .item_trie import ItemTrie
from .item_trie_level import taken
from .memory_content import BLOCK_ENTRIES

REMAINDER = 1e-6  # of exp(m/τ), what every item has: with it as many items come back as are asked for
LOG_REMAINDER = math.log(REMAINDER)
MORE_CANDIDATES = 8  # times as many as items, from which on a product with all items is less work than to pick
CACHED_ENTRIES = 2**19  # numbers of picked content vectors that a CPU has at once: 2 MiB, which its cache holds


class ItemSources(NamedTuple):
    """
    Where recommended items come from, in shares of their probability that sum to 1 for each item; 0 where there is
    none.

    The network's share is `(1 - g)·P_net / P`, the memory's `g·p_mem / P`. The memory's is split again: what `p_mem`
    has beside the remainder that every item gets, with m taken without trend and period, is given to transitions and
    content in proportion to their positive terms of `m`, `d_i·a_j·B[j, i]` with an item's own `β·a_j`, and
    `w_u·a_j·cos(j, i)` with a common brand's `ζ_u·r_i·a_j`; the rest is `unknown`.

    Args:
        network (`torch.FloatTensor` of shape `(batch_size, num_items)`): of the network.
        transitions (`torch.FloatTensor` of shape `(batch_size, num_items, history)`): of what followed each item of
            the history.
        content (`torch.FloatTensor` of shape `(batch_size, num_items, history)`): of the likeness to each of them,
            in content and brand.
        unknown (`torch.FloatTensor` of shape `(batch_size, num_items)`): of the memory, for no reason.
        history_rows (`torch.LongTensor` of shape `(batch_size, history)`): those items, the latest last; -1 for none.
    """

    network: Tensor
    transitions: Tensor
    content: Tensor
    unknown: Tensor
    history_rows: Tensor


def history_rows(input_ids: Tensor, attention_mask: Tensor, trie: ItemTrie, max_history: int) -> Tensor:
    """
    The items of histories of token ids.

    Args:
        input_ids (`torch.LongTensor` of shape `(B, S)`): whole semantic IDs one after the other, padded anywhere.
        attention_mask (`torch.Tensor` of shape `(B, S)`): 0 on padding.
        trie ([`ItemTrie`]): the catalogue.
        max_history (`int`): items to keep, the latest.

    Returns:
        `torch.LongTensor` of shape `(B, H)`: item rows, the latest last, -1 before the first and for semantic IDs that
        the trie lacks.
    """
    levels, real = trie.num_levels, attention_mask != 0
    items = min(max_history, -(-input_ids.shape[1] // levels))
    places = items * levels - real.flip(1).cumsum(1).flip(1)  # of each token, counted so that the last one is last
    tokens = input_ids.new_full((len(input_ids), items * levels + 1), -1)
    tokens.scatter_(1, places.masked_fill(~real | (places < 0), items * levels), input_ids)  # the last column is waste
    offsets = torch.tensor(trie.level_offsets, device=tokens.device)
    codes = tokens[:, :-1].view(len(tokens), items, levels) - offsets
    return trie.find(codes)


class UserMemory:
    """
    What a memory says of a batch of users.

    Args:
        memory ([`ItemMemory`]): the memory, on the device of the trie.
        histories (`torch.LongTensor` of shape `(B, H)`): item rows, the latest last, -1 for none.
        trie ([`ItemTrie`]): the catalogue.

    Attributes:
        histories (`torch.LongTensor` of shape `(B, H)`): those given, on a CPU without empty columns before.
        positions (`torch.LongTensor` of shape `(B, C)`): the candidates in the order of the trie, each once; then
            `num_items`.
        scores (`torch.DoubleTensor` of shape `(B, C)`): their m; 0 behind them.
        trends (`torch.DoubleTensor` of shape `(B, C)`): what of it is trend and period.
        evidence (`torch.FloatTensor` of shape `(B, 3)`): what a gate reads: log(1 + count of the last item), log of
            the mass of the history's rows (`Σ_j a_j Σ_i B[j, i]`, at least 1e-3), and the entropy of
            `softmax(m / τ)` over the candidates, whatever the rules.
        mixing (`torch.FloatTensor` of shape `(B,)`): g of each user.
    """

    def __init__(self, memory: ItemMemory, histories: Tensor, trie: ItemTrie):
        settings = memory.settings
        self.memory, self.trie = memory, trie
        self.temperature = settings.temperature
        # no float64 on Apple's GPUs
        self.dtype = torch.float32 if histories.device.type == "mps" else torch.float64
        if histories.device.type == "cpu" and histories.numel():
            first = int((histories >= 0).any(0).to(torch.uint8).argmax())  # columns before it hold nothing
            histories = histories[:, first:]
        self.histories = histories
        items, values = _transitions(memory, histories, self.dtype)
        self._counts, self._mass = _last_counts(memory, histories), values.sum(1)
        content = memory.content if settings.content_weight else None
        if content is not None:
            items = torch.cat((items, _rows_of(content.similar_items, histories)), dim=1)
        if settings.repeat_weight:
            items = torch.cat((items, histories.to(items.dtype)), dim=1)
        values = torch.nn.functional.pad(values, (0, items.shape[1] - values.shape[1]))
        positions, order = trie.positions_of(items).sort(dim=1)
        values, items = values.gather(1, order), items.gather(1, order)
        is_new = torch.ones_like(positions, dtype=torch.bool)
        is_new[:, 1:] = positions[:, 1:] != positions[:, :-1]
        runs = is_new.cumsum(1) - 1
        self.scores = torch.zeros_like(values).scatter_add_(1, runs, values)
        self.positions = torch.full_like(positions, trie.num_items).scatter_(1, runs, positions)
        rows = torch.zeros_like(positions).scatter_(1, runs, items.long().clamp_(min=0))  # of the positions
        if positions.device.type == "cpu":
            most = max(1, int((self.positions < trie.num_items).sum(1).max())) if len(positions) else 1
            self.scores, self.positions, rows = (
                each[:, :most].contiguous() for each in (self.scores, self.positions, rows)
            )
        known = self.positions < trie.num_items
        if settings.discount:
            self.scores *= _discounts(memory, rows).to(self.dtype)
        if content is not None:
            cosines = _cosines(content.vectors, histories, rows).to(self.dtype)
            self.scores += torch.where(known, cosines * content_weights(memory, histories)[:, None], 0)
        if memory.brands is not None and settings.brand_weight:
            self.scores += torch.where(known, _brand_scores(memory, histories, rows, self.dtype), 0)
        if settings.repeat_weight:
            places = torch.searchsorted(self.positions, trie.positions_of(histories)).clamp_(max=known.shape[1] - 1)
            self.scores.scatter_add_(1, places, (settings.repeat_weight * _places(histories)).to(self.dtype))
        self.trends = torch.zeros_like(self.scores)
        if memory.trend is not None and settings.trend_weight:
            self.trends = settings.trend_weight * torch.where(known, taken(memory.trend, rows), 0).to(self.dtype)
        if memory.periods is not None and settings.period_weight:
            rates = _period_rates(*memory.periods, histories[:, -1], rows).to(self.dtype)
            self.trends = self.trends + settings.period_weight * torch.where(known, rates, 0)
        self.scores += self.trends
        gate = settings.gate
        if gate is None:
            self.mixing = torch.full((len(histories),), float(settings.mixing_weight), device=histories.device)
        else:
            weights = torch.tensor(gate, device=histories.device)
            self.mixing = (weights[0] + self.evidence @ weights[1:]).sigmoid()

    @property
    def logits(self) -> Tensor:
        """m/τ of the candidates, -inf behind them."""
        return (self.scores / self.temperature).masked_fill(self.positions >= self.trie.num_items, -torch.inf)

    @property
    def evidence(self) -> Tensor:
        logits = self.logits
        log_shares = logits - logits.logsumexp(1, keepdim=True)
        entropy = -torch.where(logits > -torch.inf, log_shares.exp() * log_shares, 0).sum(1)
        mass = self._mass.clamp(min=1e-3).log()
        return torch.stack((self._counts.to(self.dtype).log1p(), mass, entropy), dim=1).float()

    def scores_of(self, rows: Tensor) -> Tensor:
        """m of items `[B, K]`; 0 for those that are no candidates, and for row -1."""
        return self.values_of(rows, self.scores)

    def values_of(self, rows: Tensor, values: Tensor) -> Tensor:
        """Those of items `[B, K]` among values of the candidates `[B, C]`; 0 for others, and for row -1."""
        positions = self.trie.positions_of(rows)
        places = torch.searchsorted(self.positions, positions).clamp_(max=self.positions.shape[1] - 1)
        known = (self.positions.gather(1, places) == positions) & (rows >= 0)
        return torch.where(known, values.gather(1, places), 0)

    def start(self, rules: RulesOfSearch | None = None) -> "PrefixMass":
        """Prepares a search, by default over all items."""
        if rules is None:
            rules = ItemRules(self.trie).start(len(self.positions))
        return PrefixMass(self, rules)


class PrefixMass:
    """
    Mixture of the network with the memory of a batch of users, prefix by prefix, over the items that each may get.

    Args:
        users ([`UserMemory`]): the memory's candidates.
        rules ([`RulesOfSearch`]): what each user may get.
    """

    def __init__(self, users: UserMemory, rules: RulesOfSearch):
        self.trie, self.rules = users.trie, rules
        known = users.positions < self.trie.num_items
        known = known & rules.allows(users.positions.clamp(max=self.trie.num_items - 1))
        logits = log_weights(users.logits).masked_fill_(~known, -torch.inf)
        self.edges = [users.positions]  # of the candidates at each level; the number of edges behind the last one
        self.codes: list[Tensor | None] = []
        for level in reversed(self.trie.levels[1:]):
            parents, codes = level.split(self.edges[0].clamp(max=level.num_edges - 1))
            self.codes.insert(0, codes)
            self.edges.insert(0, parents.masked_fill_(self.edges[0] >= level.num_edges, level.num_nodes))
        self.codes.insert(0, None)
        # log-sum and number of the candidates below each candidate's edge
        self.sums, self.numbers = [logits], [known.to(torch.int32)]
        for edges in reversed(self.edges[:-1]):
            sums, numbers = _segment_sums(edges, logits, known)
            self.sums.insert(0, sums)
            self.numbers.insert(0, numbers)
        self.log_total = log_normalizer(logits, rules.totals() - known.sum(1))
        self._shift = (users.mixing.log() - self.log_total)[:, None]  # from a log-sum to log(g·M)
        self._log_rest = torch.log1p(-users.mixing)

    def mix_children(self, level: int, nodes: Tensor, log_network: Tensor) -> Tensor:
        """
        Log-probabilities of the children of beams in the mixture of network and memory.

        Args:
            level (`int`): the level of the children.
            nodes (`torch.LongTensor` of shape `(B, W)`): the beams' nodes.
            log_network (`torch.FloatTensor` of shape `(B, W, width)`): log-probabilities of the network, from the root
                on, laid out as [`TrieLevel.children`] does.

        Returns:
            `torch.FloatTensor` of the same shape; without meaning where no child may be entered.
        """
        logs = self.rules.log_counts(level, nodes)
        cells, there = self._cells(level, nodes)
        logs += (self._shift.float() + LOG_REMAINDER)[..., None]
        put(logs, cells, there, self._shares(level, self.edges[level], self.sums[level], self.numbers[level]))
        return torch.logaddexp(log_network + self._log_rest[:, None, None], logs)

    def best_items(self, nodes: Tensor, log_network: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """
        The best children of beams at the last level, where each is an item: the same as of all that `mix_children`
        gives. Items that are no candidates have one mass, so the mixture has them in the network's order, and is made
        of as many as are asked for.

        Args:
            nodes (`torch.LongTensor` of shape `(B, W)`): the beams' nodes.
            log_network (`torch.FloatTensor` of shape `(B, W, width)`): as of `mix_children`, and -inf where no child
                may be entered. It is overwritten.
            number (`int`): of items.

        Returns:
            `tuple[torch.FloatTensor, torch.LongTensor]`: log-probabilities in the mixture and cells of `log_network`,
            `(B, number)`, the best first.
        """
        level = self.trie.num_levels - 1
        cells, there = self._cells(level, nodes)
        known = log_network.flatten(1).gather(1, cells).masked_fill_(~there, -torch.inf)
        shift, rest = self._shift.float(), self._log_rest[:, None]
        remembered = torch.logaddexp(known + rest, (self.sums[level] + self._shift).float())
        put(log_network, cells, there, torch.full_like(known, -torch.inf))
        others, other_cells = largest(log_network, number)
        mixed = torch.logaddexp(others + rest, shift + LOG_REMAINDER)
        mixed = torch.cat((mixed, remembered), dim=1)
        mixed.masked_fill_(torch.cat((others, known), dim=1) == -torch.inf, -torch.inf)
        best, places = mixed.topk(others.shape[1])
        return best, torch.cat((other_cells, cells), dim=1).gather(1, places)

    def mix_edges(self, level: int, edges: Tensor, log_network: Tensor) -> Tensor:
        """The same of edges `[B, C]` of a level, of which all are the trie's or -1, without meaning for those."""
        edges = edges.clamp(min=0)
        places = torch.searchsorted(self.edges[level], edges).clamp_(max=self.edges[level].shape[1] - 1)
        found = self.edges[level].gather(1, places) == edges
        shares = self._shares(level, edges, self.sums[level].gather(1, places), self.numbers[level].gather(1, places))
        counts = self.rules.counts(level, edges)
        logs = torch.where(found, shares, counts.float().log() + (self._shift.float() + LOG_REMAINDER))
        return torch.logaddexp(log_network + self._log_rest[:, None], logs)

    def _cells(self, level: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Where the candidates stand among the children of nodes, see [`TrieLevel.cells`]."""
        edges = self.edges[level]
        starts = self.edges[level - 1] if level else edges.clamp(max=0)
        return self.trie.levels[level].cells(nodes, starts, edges, self.codes[level])

    def _shares(self, level: int, edges: Tensor, sums: Tensor, numbers: Tensor) -> Tensor:
        """`log(g·M)` of edges below which are `numbers` candidates, whose log-sum is `sums`; float32."""
        shares = (sums + self._shift).float()  # in float64 up to here: both may be large
        if level == self.trie.num_levels - 1:  # a candidate is all that there is
            return shares
        counts = self.rules.counts(level, edges.clamp(max=self.trie.levels[level].num_edges - 1))
        others = (counts - numbers).clamp_(min=0).float().log_()
        return torch.logaddexp(others + (self._shift.float() + LOG_REMAINDER), shares)


def item_sources(users: UserMemory, rules: ItemRules | None, rows: Tensor, scores: Tensor) -> ItemSources:
    """
    [`ItemSources`] of recommended items.

    Args:
        users ([`UserMemory`]): the memory that they were found with.
        rules ([`ItemRules`], *optional*): the rules of that search.
        rows (`torch.LongTensor` of shape `(B, K)`): the items; -1 for none.
        scores (`torch.FloatTensor` of shape `(B, K)`): their log-probabilities in the mixture.
    """
    memory, histories = users.memory, users.histories
    mass = users.start(None if rules is None else rules.start(len(rows)))
    found = rows >= 0
    log_mass = log_weights(users.scores_of(rows) / users.temperature) - mass.log_total[:, None]
    remembered = (log_mass + users.mixing.log()[:, None] - scores).exp().clamp(max=1).float()
    remembered = torch.where(found, remembered, 0)
    transitions = _transition_terms(memory, histories, rows)
    content = torch.zeros_like(transitions)
    if memory.content is not None and memory.settings.content_weight:
        vectors = memory.content.vectors
        ours, theirs = vectors[rows.clamp(min=0)].float(), vectors[histories.clamp(min=0)].float()
        content = (ours @ theirs.mT).clamp_(min=0) * _places(histories)[:, None]
        content *= content_weights(memory, histories)[:, None, None]
    if memory.brands is not None and memory.settings.brand_weight:
        brands, places = _brand_places(memory, histories)
        same = brands[:, None] == memory.brands[rows.clamp(min=0)][..., None]
        weights = _brand_weights(memory, histories, rows.clamp(min=0), content.dtype)
        content += same * places[:, None] * weights[..., None]
    total = (transitions.sum(2) + content.sum(2)).clamp(min=1e-30)
    explained = users.values_of(rows, users.scores - users.trends) / users.temperature
    reasoned = remembered * (log_expm1(explained) - log_weights(explained)).exp().float()
    shares = (reasoned / total)[..., None]
    return ItemSources(
        network=torch.where(found, 1 - remembered, 0),
        transitions=transitions * shares,
        content=content * shares,
        unknown=remembered - reasoned,
        history_rows=histories,
    )


def log_expm1(logits: Tensor) -> Tensor:
    """log(exp(x) - 1) of what is above 0, else -inf."""
    above = logits.clamp(min=0)
    return above + torch.log(-torch.expm1(-above))


def log_weights(logits: Tensor) -> Tensor:
    """
    What items weigh in `p_mem`, in logarithms: exp(m/τ) - 1 where m is above 0, and [`REMAINDER`]·exp(m/τ) of every
    item. The order is m's; but for the remainder only what the memory knows something of has any mass, so a prefix of
    many items that it knows nothing of is not mistaken for a likely one.

    Args:
        logits (`torch.Tensor`): m/τ; -inf for nothing.
    """
    return torch.logaddexp(log_expm1(logits), logits + LOG_REMAINDER)


def log_normalizer(log_known: Tensor, others: Tensor) -> Tensor:
    """
    Logarithm of what all items of users weigh in `p_mem`, `[B]`.

    Args:
        log_known (`torch.Tensor` of shape `(B, C)`): [`log_weights`] of the candidates; -inf for none.
        others (`torch.Tensor` of shape `(B,)`): how many further items there are, with m = 0.
    """
    return torch.logaddexp(others.to(log_known.dtype).log() + LOG_REMAINDER, log_known.logsumexp(1))


def content_weights(memory: ItemMemory, histories: Tensor) -> Tensor:
    """`w_u` of users `[B]` by the training interactions of their last item."""
    return memory.settings.content_weight * _by_evidence(memory, histories)


def _by_evidence(memory: ItemMemory, histories: Tensor) -> Tensor:
    """What content and brand of users `[B]` count times, who know little of what follows their last item."""
    return 1 + memory.settings.evidence / (_last_counts(memory, histories) + 1.0)


def _last_counts(memory: ItemMemory, histories: Tensor) -> Tensor:
    """Training interactions of the last item of histories `[B, H]`; 0 if it is unknown."""
    last = histories[:, -1]
    return memory.counts[last.clamp(min=0)].masked_fill(last < 0, 0)


def _period_rates(periods: Tensor, rates: Tensor, last: Tensor, rows: Tensor) -> Tensor:
    """`R` of the last items of histories `[B]` and of items `rows` `[B, C]`; 0 where one has no period."""
    before = periods[last.clamp(min=0)].masked_fill(last < 0, -1)[:, None].long()
    after = taken(periods, rows).long()
    found = rates[before.clamp(min=0), after.clamp(min=0)]
    return found.masked_fill((before < 0) | (after < 0), 0)


def _brand_places(memory: ItemMemory, histories: Tensor) -> tuple[Tensor, Tensor]:
    """Brands of the items of histories `[B, H]`, -1 for none, and `a_j` of those that have one."""
    assert memory.brands is not None
    brands = memory.brands[histories.clamp(min=0)].masked_fill_(histories < 0, -1)
    return brands, _places(histories).masked_fill(brands < 0, 0)


def _brand_weights(memory: ItemMemory, histories: Tensor, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """`ζ_u·r_i` of items `rows` `[B, C]`."""
    assert memory.brand_sizes is not None
    sizes, most = taken(memory.brand_sizes, rows).clamp(min=1).to(dtype), memory.num_items
    rarity = (math.log(most) - sizes.log()) / math.log(max(most, 2))
    return rarity * (memory.settings.brand_weight * _by_evidence(memory, histories).to(dtype))[:, None]


def _brand_scores(memory: ItemMemory, histories: Tensor, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """`ζ_u·r_i·Σ_j a_j·[b_j = b_i]` of items `rows` `[B, C]` to the items of histories `[B, H]`."""
    assert memory.brands is not None
    brands, places = _brand_places(memory, histories)
    sums = ((brands[:, :, None] == brands[:, None]) * places.to(dtype)[:, None]).sum(2)  # of each one's brand
    known, order = brands.sort(dim=1)
    theirs = taken(memory.brands, rows)
    found = torch.searchsorted(known, theirs).clamp_(max=known.shape[1] - 1)
    same = known.gather(1, found) == theirs
    return torch.where(same, sums.gather(1, order).gather(1, found), 0) * _brand_weights(
        memory, histories, rows, dtype
    )


def _places(histories: Tensor) -> Tensor:
    """Weights of histories `[B, H]`: 1/place from the end, 0 where there is no item."""
    places = torch.arange(histories.shape[1], 0, -1, device=histories.device)
    return torch.where(histories >= 0, 1 / places, 0)


def _rows_of(items: Tensor, histories: Tensor) -> Tensor:
    """The sparse rows of the items of histories `[B, H]` side by side: items `[B, H·k]`, -1 for none."""
    return taken(items, histories.clamp(min=0)).masked_fill_((histories < 0)[..., None], -1).flatten(1)


def _transitions(memory: ItemMemory, histories: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The items that follow those of histories `[B, H]`, and `a_j·B[j, i]`, `[B, H·k]`."""
    weights = taken(memory.transition_weights, histories.clamp(min=0)).to(dtype)
    return _rows_of(memory.transition_items, histories), (weights * _places(histories).to(dtype)[..., None]).flatten(1)


def _cosines(content: Tensor, histories: Tensor, rows: Tensor) -> Tensor:
    """`Σ_j a_j·cos(j, i)` of items `rows` `[B, C]` to the items of histories `[B, H]`, float32."""
    users = (content[histories.clamp(min=0)].float() * _places(histories)[..., None]).sum(1)
    every = content.float() if MORE_CANDIDATES * len(content) <= rows.numel() else None
    size = len(content) if every is not None else rows.shape[1] * content.shape[1]
    most = CACHED_ENTRIES if every is None and rows.device.type == "cpu" else BLOCK_ENTRIES
    step = max(1, most // max(size, 1))
    found = torch.empty(rows.shape, device=rows.device)
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        if every is not None:
            found[start : start + step] = (users[start : start + step] @ every.T).gather(1, block)
        else:
            vectors = _picked(content, block)
            # this way round a CPU takes a fifth of the time
            found[start : start + step] = (users[start : start + step, None] @ vectors.mT)[:, 0]
    return found


def _picked(vectors: Tensor, rows: Tensor) -> Tensor:
    """Rows of `vectors` `[n, r]` in float32. On a CPU as sums of one each: these fetch the rows that come next, where
    all others wait for each."""
    if vectors.device.type != "cpu":
        return taken(vectors, rows).float()
    flat = rows.flatten()
    picked = torch.nn.functional.embedding_bag(flat, vectors, torch.arange(len(flat)), mode="sum")
    return picked.float().view(*rows.shape, -1)


def _discounts(memory: ItemMemory, rows: Tensor) -> Tensor:
    """d of items `rows`, float32 of their shape."""
    return ((taken(memory.counts, rows).float() + 1) / memory.usual_count).pow(-memory.settings.discount)


def _transition_terms(memory: ItemMemory, histories: Tensor, rows: Tensor) -> Tensor:
    """Positive `a_j·(d_i·B[j, i] + β·[j = i])` of items `rows` `[B, K]` and each item of histories `[B, H]`: `[B, K,
    H]`."""
    safe = histories.clamp(min=0)
    same = memory.transition_items[safe][:, None] == rows.clamp(min=0)[:, :, None, None]
    terms = torch.where(same, memory.transition_weights[safe][:, None].float(), 0).sum(3).clamp_(min=0)
    if memory.settings.discount:
        terms *= _discounts(memory, rows.clamp(min=0))[..., None]
    if memory.settings.repeat_weight > 0:
        terms += memory.settings.repeat_weight * (rows[..., None] == safe[:, None])
    return terms * _places(histories)[:, None]


def _segment_sums(edges: Tensor, logits: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Log-sum of `logits` `[B, C]` and number of the `known` over the runs of equal `edges`, given to each entry."""
    is_new = torch.zeros_like(edges)
    is_new[:, 1:] = edges[:, 1:] != edges[:, :-1]
    runs = is_new.cumsum(1)
    largest = torch.full_like(logits, -torch.inf).scatter_reduce_(1, runs, logits, "amax").gather(1, runs)
    largest = largest.masked_fill(largest == -torch.inf, 0)
    sums = torch.zeros_like(logits).scatter_add_(1, runs, (logits - largest).exp()).gather(1, runs)
    numbers = torch.zeros_like(known, dtype=torch.int32).scatter_add_(1, runs, known.to(torch.int32)).gather(1, runs)
    return sums.log() + largest, numbers


__all__ = ["ItemSources", "PrefixMass", "UserMemory", "content_weights", "history_rows", "item_sources"]
