"""Fixtures of the networks' tests."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from modeling_utgrec import encoding_parts


class PrefixStep:
    """A network for beam search, fast and random: the logits of a user after a prefix of tokens.

    Args:
        num_users: users B.
        vocab_size: tokens.
        seed: of its weights.
        spread: standard deviation of the logits.
    """

    def __init__(self, num_users: int, vocab_size: int, seed: int = 0, spread: float = 2.0, depth: int = 8):
        generator = torch.Generator().manual_seed(seed)
        self.users = torch.randn(num_users, 1, 16, generator=generator)
        self.tokens = torch.randn(depth, vocab_size, 16, generator=generator)
        self.head = torch.randn(16, vocab_size, generator=generator) * spread / 4
        self.prefixes: Tensor  # [B, W, depth]
        self.widths: list[int] = []  # of the calls there were

    def logits(self, prefixes: Tensor) -> Tensor:
        """`[B, W, vocab_size]` after prefixes `[B, W, T]`."""
        states = self.users.expand(-1, prefixes.shape[1], -1)
        for depth, tokens in enumerate(prefixes.unbind(2)):
            states = states.sin() + self.tokens[depth][tokens]
        self.widths.append(prefixes.shape[1])
        return states @ self.head

    def start(self) -> Tensor:
        self.prefixes = torch.zeros(len(self.users), 1, 0, dtype=torch.long, device=self.users.device)
        return self.logits(self.prefixes)

    def advance(self, tokens: Tensor, parents: Tensor) -> Tensor:
        kept = self.prefixes.gather(1, parents[..., None].expand(-1, -1, self.prefixes.shape[2]))
        self.prefixes = torch.cat((kept, tokens[..., None]), dim=2)
        return self.logits(self.prefixes)

    def score(self, tokens: Tensor) -> Tensor:
        """Log-probabilities `[B, n]` of whole identifiers `[n, L]`, one by one."""
        tokens = tokens.expand(len(self.users), -1, -1)
        scores = torch.zeros(tokens.shape[:2])
        for depth in range(tokens.shape[2]):
            log_probs = self.logits(tokens[:, :, :depth]).log_softmax(-1)
            scores += log_probs.gather(2, tokens[:, :, depth : depth + 1]).squeeze(2)
        return scores


# A test module cannot import this one, and hypothesis takes no fixtures that are made anew for every test.
@pytest.fixture(scope="session")
def prefix_step() -> type[PrefixStep]:
    return PrefixStep


@pytest.fixture(scope="session")
def assert_same_ranking(float32_tolerance) -> Callable[..., None]:
    """Asserts that two searches found the same items in the same order, but for items whose scores differ by no more
    than rounding: which of those comes first is up to the processor. `depth` layers are behind a score."""

    def check(rows: Tensor, scores: Tensor, expected_rows: Tensor, expected_scores: Tensor, depth: int = 12) -> None:
        finite = expected_scores.isfinite()
        allowed = float32_tolerance(depth, expected_scores[finite]) if finite.any() else {}
        torch.testing.assert_close(scores, expected_scores, **allowed)
        ties = {name: 2 * value for name, value in allowed.items()}  # both of them are rounded
        for user, place in (rows != expected_rows).nonzero().tolist():
            same = expected_rows[user] == rows[user, place]
            # beyond the end of the list, an item may tie with the last one only
            score = expected_scores[user, same] if same.any() else expected_scores[user, -1:]
            torch.testing.assert_close(score, expected_scores[user, place, None], **ties)
        for user in rows:
            found = user[user >= 0]
            assert len(found.unique()) == len(found), "an item twice"

    return check


class OrderedSums(TorchDispatchMode):
    """Fails where the gradient of `x[places]` adds to a place twice.

    On CPU the threads add in any order, and two runs of one seed differ in the last digits; the gradients of
    `F.embedding` and `index_select` add in order.
    """

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function.overloadpacket.__name__ in ("index_put", "index_put_") and len(args) > 3 and args[3]:
            places = [index for index in args[1] if index is not None and index.dtype != torch.bool]
            if places:
                rows = torch.stack(torch.broadcast_tensors(*places)).flatten(1)
                assert rows.unique(dim=1).shape == rows.shape, f"gradient of an indexing of {tuple(args[0].shape)}"
        return function(*args, **(kwargs or {}))


@pytest.fixture(scope="session")
def ordered_sums() -> type[OrderedSums]:
    return OrderedSums


@pytest.fixture(params=["all rows at once", "rows in parts"])
def in_parts(request, monkeypatch) -> bool:
    """A test with batches of histories that are encoded at once, and again in parts of like length."""
    if request.param == "rows in parts":
        monkeypatch.setattr(encoding_parts, "MOST_PLACES", 4)
    return request.param == "rows in parts"
