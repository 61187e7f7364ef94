"""Depth head of the item-level recommender: what writes an item's codes, one after the other, and their losses."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_item_level import ItemLevelConfig
from .item_trie import ItemTrie
from .item_trie_level import TrieLevel
from .loss_child_cross_entropy import child_cross_entropy
from .loss_cross_entropy import cross_entropy_of_valid, linear_cross_entropy
from .node_content import child_products, node_content


class ResidualLayer(nn.Module):
    """`x + Dropout(W2 GELU(W1 LayerNorm(x)))`."""

    def __init__(self, config: ItemLevelConfig):
        super().__init__()
        assert config.intermediate_size is not None
        self.norm = nn.LayerNorm(config.hidden_size)
        self.inner = nn.Linear(config.hidden_size, config.intermediate_size)
        self.outer = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, states: Tensor) -> Tensor:
        """States of shape `(..., hidden_size)`."""
        return states + self.dropout(self.outer(F.gelu(self.inner(self.norm(states)))))


class DepthHead(nn.Module):
    """What writes an item's codes: residual layers on state + level embedding + embeddings of the codes so far. A code
    that was written has another embedding than one that is read: what an item is and what narrows the next one down
    are two things, and with one table the deeper levels learn several times as slowly."""

    def __init__(self, config: ItemLevelConfig):
        super().__init__()
        assert config.num_levels is not None
        self.levels = nn.Embedding(config.num_levels, config.hidden_size)
        self.codes = nn.Embedding(config.num_rows, config.hidden_size)
        self.layers = nn.ModuleList([ResidualLayer(config) for _ in range(config.depth_layers)])
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, prefixes: Tensor, levels: Tensor) -> Tensor:
        """
        Args:
            prefixes (`torch.FloatTensor` of shape `(..., hidden_size)`): state plus embeddings of the codes so far.
            levels (`torch.LongTensor`, broadcastable with `(...)`): the level that is to be written.

        Returns:
            `torch.FloatTensor` of shape `(..., hidden_size)`: what is compared with the level's output embeddings.
        """
        states = prefixes + self.levels(levels)
        for layer in self.layers:
            states = layer(states)
        return self.norm(states)


class DepthHeadPrediction:
    """For a model with a depth head: logits and losses of codes, given the states that write items. A code is
    predicted by an embedding (`config.write_codes`), by the content of the items that it leads to
    (`config.node_content`), or by both."""

    config: ItemLevelConfig
    depth_head: DepthHead
    lm_head: nn.Linear
    code_biases: nn.Parameter
    content_mean: Tensor
    content_projection: nn.Linear
    node_scales: nn.Parameter
    _catalogues: list[tuple[ItemTrie, list[Tensor]]]  # each with the content of its nodes, for the loss
    _domains: tuple[Tensor, Tensor] | None  # of several: sorted keys of all items, and the catalogue of each
    _searched: tuple[ItemTrie, Tensor, Tensor, list[Tensor]] | None  # see node_vectors

    def level_logits(self, prefixes: Tensor, level: int) -> Tensor:
        """
        Logits of a level's codes by their embeddings, of a model without `config.node_content`.

        Args:
            prefixes (`torch.FloatTensor` of shape `(..., hidden_size)`): the state that writes the item, plus the
                embeddings of its codes on the levels before.
            level (`int`): the level.

        Returns:
            `torch.FloatTensor` of shape `(..., config.level_sizes[level])`.
        """
        written = self.depth_head(prefixes, torch.tensor(level, device=prefixes.device))
        weight, bias = self._output_embeddings(level)
        assert weight is not None
        return F.linear(written, weight, bias)

    def child_logits(
        self, prefixes: Tensor, level: int, edges_of_level: TrieLevel, nodes: Tensor, vectors: Tensor
    ) -> Tensor:
        """
        Logits of a level's codes by the nodes that they lead to.

        Args:
            prefixes, level: as for [`~ItemLevelForCausalLM.level_logits`].
            edges_of_level ([`TrieLevel`]): the level in the trie.
            nodes (`torch.LongTensor` of shape `(...)`): the prefixes' nodes.
            vectors (`torch.FloatTensor` of shape `(edges, hidden_size)`): the level's [`node_vectors`].

        Returns:
            `torch.FloatTensor` of shape `(..., config.level_sizes[level])`: -inf for codes that no item has there.
        """
        written = self.depth_head(prefixes, torch.tensor(level, device=prefixes.device))
        codes, exists, edges = edges_of_level.listed_children(nodes)
        if edges_of_level.num_nodes == 1:
            products = F.linear(written, vectors)
        else:
            products = child_products(written, vectors, edges, exists.sum(dim=-1))
        products = products * self.node_scales[level]
        if self._counts_nodes(level):
            products = products + edges_of_level.log_counts_of(edges)
        size = edges_of_level.size
        logits = products.new_full((*nodes.shape, size + 1), -torch.inf)
        logits = logits.scatter_(-1, codes.masked_fill_(~exists, size), products)[..., :size]
        weight, bias = self._output_embeddings(level)
        return logits + (bias if weight is None else F.linear(written, weight, bias))

    @torch.no_grad()
    def node_vectors(self, trie: ItemTrie) -> list[Tensor]:
        """
        Projections of the content of a trie's nodes, kept for the next search among the same items.

        Args:
            trie ([`ItemTrie`]): items with content, on the model's device.

        Returns:
            `list[torch.FloatTensor]`: of shape `(edges, hidden_size)` for each level.
        """
        weight, mean = self.content_projection.weight, self.content_mean
        if self._searched is not None:
            other, *used, vectors = self._searched
            same = trie.is_copy_of(other) and trie.device == other.device and used[0].dtype == weight.dtype
            if same and torch.equal(used[0], weight) and torch.equal(used[1], mean):
                return vectors
        with torch.autocast(trie.device.type, enabled=False):
            vectors = [self._project_unit(content) for content in node_content(trie, mean)]
        self._searched = trie, weight.detach().clone(), mean.clone(), vectors
        return vectors

    def written(self, tokens: Tensor, level: int) -> Tensor:
        """What tokens of a level add to the prefixes of [`~ItemLevelForCausalLM.level_logits`], `(*tokens.shape,
        hidden_size)`."""
        config = self.config
        assert config.level_offsets is not None
        return self.depth_head.codes(tokens - config.level_offsets[level] + config.row_offsets[level])

    def _output_embeddings(self, level: int) -> tuple[Tensor | None, Tensor]:
        """Vectors `(codes, hidden_size)` of a level's codes, if they have any, and biases `(codes,)`."""
        assert self.config.level_sizes is not None
        first = self.config.row_offsets[level]
        columns = slice(first, first + self.config.level_sizes[level])
        if not self.config.write_codes:
            return None, self.code_biases[columns]
        return self.lm_head.weight[columns], self.lm_head.bias[columns]

    def _rows(self, tokens: Tensor) -> Tensor:
        """Rows of the tables of embeddings for tokens `(..., levels)`, the first of an item's levels or all."""
        config = self.config
        if config.level_offsets == config.row_offsets:
            return tokens
        shifts = torch.tensor(config.row_offsets) - torch.tensor(config.level_offsets)
        rows = tokens + shifts[: tokens.shape[-1]].to(tokens.device)
        return rows.clamp(0, config.num_rows - 1)  # of padding, any

    def _keys(self, codes: Tensor) -> Tensor:
        """Semantic IDs `(..., num_levels)` as numbers, in lexicographic order."""
        assert self.config.level_sizes is not None
        keys = torch.zeros_like(codes[..., 0])
        for size, column in zip(self.config.level_sizes, codes.unbind(-1), strict=True):
            keys = keys * size + column
        return keys

    def _project_unit(self, content: Tensor) -> Tensor:
        """Projection of vectors of [`unit_vectors`] or [`node_content`]: items and nodes share it."""
        return self.content_projection(content.to(self.content_projection.weight.dtype))

    def _level_losses(self, states: Tensor, labels: Tensor, valid_codes: Tensor | None) -> Tensor:
        """Mean loss of each level, `(num_levels,)`, of `labels` `(targets, num_levels)` after `states` `(targets,
        hidden_size)`."""
        config = self.config
        assert config.level_offsets is not None
        before = torch.cat((states[:, None], self.depth_head.codes(self._rows(labels[:, :-1]))), dim=1).cumsum(dim=1)
        written = self.depth_head(before, torch.arange(labels.shape[1], device=labels.device))
        losses = []
        for level, first in enumerate(config.level_offsets):
            codes, (weight, bias) = labels[:, level] - first, self._output_embeddings(level)
            assert weight is not None
            if config.normalize_over == "vocabulary":
                losses.append(linear_cross_entropy(written[:, level], weight, codes, bias))
            else:
                assert valid_codes is not None
                logits = F.linear(written[:, level], weight, bias)
                losses.append(cross_entropy_of_valid(logits, codes, valid_codes[:, level]))
        return torch.stack(losses) / max(len(labels), 1)

    def _node_losses(self, states: Tensor, labels: Tensor) -> Tensor:
        """As `_level_losses`, over the nodes of the catalogue, of several that of each label. Where a prefix goes
        on in one way, nothing is to be learnt."""
        sums = self._sums_over_nodes(states, labels)
        if torch.is_grad_enabled() and not sums.requires_grad:
            # Zero with a gradient: training takes one of every batch, distributed training for every parameter.
            assert isinstance(self, nn.Module)
            sums = sums + sum(parameter.sum() * 0.0 for parameter in self.parameters())
        return sums / max(len(labels), 1)

    def _sums_over_nodes(self, states: Tensor, labels: Tensor) -> Tensor:
        if self._domains is None:
            return self._sums_of_losses(0, states, labels)
        if self._domains[0].device != labels.device:
            self._domains = self._domains[0].to(labels.device), self._domains[1].to(labels.device)
        keys, owners = self._domains
        codes = labels - torch.tensor(self.config.level_offsets, device=labels.device)
        places = torch.searchsorted(keys, self._keys(codes)).clamp(max=len(keys) - 1)  # unknown ones: refused below
        sums = torch.zeros(labels.shape[1], device=labels.device)
        for number in owners[places].unique().tolist():
            rows = (owners[places] == number).nonzero().flatten()
            sums = sums + self._sums_of_losses(number, states[rows], labels[rows])
        return sums

    def _sums_of_losses(self, number: int, states: Tensor, labels: Tensor) -> Tensor:
        """Each level's losses over the nodes of one of the catalogues, summed over the labels."""
        trie, contents = self._catalogues[number]
        if trie.device != labels.device:
            trie, contents = trie.to(labels.device), [each.to(labels.device) for each in contents]
            self._catalogues[number] = trie, contents
        losses, prefixes, nodes = [], states, torch.zeros_like(labels[:, 0])
        for level, (edges_of_level, first) in enumerate(zip(trie.levels, trie.level_offsets, strict=True)):
            edges = edges_of_level.edge(nodes, labels[:, level] - first)
            if (edges < 0).any():
                row = int((edges < 0).nonzero()[0])
                raise ValueError(
                    f"No item of the catalogue has the tokens {labels[row].tolist()} that are among the labels: call "
                    "`set_catalogue` with the trie of all items that are trained on."
                )
            open_ended = (edges_of_level.starts[nodes + 1] - edges_of_level.starts[nodes] > 1).nonzero().flatten()
            losses.append(
                self._node_loss(
                    prefixes[open_ended], level, edges_of_level, contents[level], nodes[open_ended], edges[open_ended]
                )
            )
            if level < len(trie.levels) - 1:
                prefixes = prefixes + self.written(labels[:, level], level)
            nodes = edges
        return torch.stack(losses)

    def _node_loss(
        self, prefixes: Tensor, level: int, edges_of_level: TrieLevel, content: Tensor, nodes: Tensor, edges: Tensor
    ) -> Tensor:
        """Sum of the cross-entropies of `edges` `(targets,)` among the children of `nodes`; `content` is that of all
        edges of the level."""
        if not len(nodes):
            return prefixes.new_zeros(())
        written = self.depth_head(prefixes, torch.tensor(level, device=prefixes.device))
        weight, bias = self._output_embeddings(level)
        if edges_of_level.num_nodes > 1:
            own = bias.expand(len(nodes), -1) if weight is None else F.linear(written, weight, bias)
            # written · (W content) = (written W) · content: of the rows there are fewer than of their children
            queries = F.linear(written * self.node_scales[level], self.content_projection.weight.T)
            return child_cross_entropy(queries, own, content, edges_of_level, nodes, edges, self._counts_nodes(level))
        codes = edges_of_level.keys.long()  # of the one node, which is 0
        vectors, biases = self._project_unit(content) * self.node_scales[level], bias[codes]
        if weight is not None:
            vectors = vectors + weight[codes]
        if self._counts_nodes(level):
            biases = biases + edges_of_level.counts.float().log()
        return linear_cross_entropy(written, vectors, edges, biases)

    def _counts_nodes(self, level: int) -> bool:
        """Whether logits of a level have the logarithm of the nodes' numbers of items; of the last, it is 0."""
        assert self.config.num_levels is not None
        return self.config.node_counts and level < self.config.num_levels - 1


__all__ = ["DepthHead", "DepthHeadPrediction", "ResidualLayer"]
