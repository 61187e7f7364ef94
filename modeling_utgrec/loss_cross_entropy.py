"""Cross-entropy over a large vocabulary without holding its logits: gradients are taken block by block on the way, or
the vocabulary is sampled."""

import torch
import torch.nn.functional as F
from torch import Tensor

# Logits held at a time. All of a batch would be gigabytes with a vocabulary of 152k; on a CPU, blocks that stay in the
# allocator's own heap are several times faster than larger ones.
MOST_LOGITS = {"cpu": 2**22}
MOST_LOGITS_ON_ACCELERATORS = 2**28


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum of cross-entropies. A block's gradient is taken while its logits are there: none is computed twice."""

    @staticmethod
    def forward(
        ctx,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        row_weights: Tensor | None,
        differentiate: bool,
    ):
        # softmax and sums in single precision at least, products in the precision of the operands
        wide = torch.promote_types(states.dtype, torch.float32)
        wants_states, wants_weight, wants_bias = (differentiate and wanted for wanted in ctx.needs_input_grad[:3])
        of_states = torch.empty_like(states) if wants_states else None
        of_weight = torch.zeros_like(weight, dtype=wide) if wants_weight else None
        of_bias = torch.zeros_like(bias, dtype=wide) if wants_bias and bias is not None else None
        most = MOST_LOGITS.get(states.device.type, MOST_LOGITS_ON_ACCELERATORS)
        rows = max(1, min(most // len(weight), len(states)))
        buffer = states.new_empty(rows, len(weight))  # one for all blocks
        total = states.new_zeros((), dtype=wide)
        for start in range(0, len(states), rows):
            block, wanted = states[start : start + rows], targets[start : start + rows, None]
            logits = torch.mm(block, weight.T, out=buffer[: len(block)]).to(wide)
            if bias is not None:
                logits += bias
            logits -= logits.amax(dim=1, keepdim=True)
            losses = -logits.gather(1, wanted)
            sums = logits.exp_().sum(dim=1, keepdim=True)
            losses += sums.log()
            counted = None if row_weights is None else row_weights[start : start + rows, None].to(wide)
            total += losses.sum() if counted is None else (losses * counted).sum()
            if not (wants_states or wants_weight or wants_bias):
                continue
            logits /= sums
            logits.scatter_add_(1, wanted, logits.new_full(wanted.shape, -1.0))
            if counted is not None:
                logits *= counted
            if of_bias is not None:
                of_bias += logits.sum(dim=0)
            logits = logits.to(states.dtype)
            if of_states is not None:
                torch.mm(logits, weight, out=of_states[start : start + rows])
            if of_weight is not None and of_weight.dtype == logits.dtype:
                of_weight.addmm_(logits.T, block)
            elif of_weight is not None:
                of_weight += logits.T @ block
        ctx.save_for_backward(of_states, of_weight, of_bias)
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor):
        of_states, of_weight, of_bias = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        return (
            None if of_states is None else of_states * gradient.to(of_states.dtype),
            None if of_weight is None else (of_weight * gradient).to(weight_dtype),
            None if of_bias is None else (of_bias * gradient).to(bias_dtype),
            None,
            None,
            None,
        )


def linear_cross_entropy(
    states: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    row_weights: Tensor | None = None,
) -> Tensor:
    """Sum over rows of the cross-entropy of `states @ weight.T + bias` with `targets`.

    As `F.cross_entropy(..., reduction="sum")`, in blocks of rows: memory is bounded whatever the vocabulary, and no
    logit is computed twice. Under autocast the products are in its precision. Gradients can be taken once, not twice.

    Args:
        states (`torch.FloatTensor` of shape `(rows, width)`): what predicts.
        weight (`torch.FloatTensor` of shape `(vocabulary, width)`): output embeddings.
        targets (`torch.LongTensor` of shape `(rows,)`): rows of `weight`.
        bias (`torch.FloatTensor` of shape `(vocabulary,)`, *optional*): added to the logits.
        row_weights (`torch.FloatTensor` of shape `(rows,)`, *optional*): what each row counts in the sum.

    Returns:
        The sum, a scalar in single precision or wider; 0 without rows.
    """
    device = states.device.type
    if torch.is_autocast_enabled(device):  # casts outside of the function: gradients come back in the callers' types
        dtype = torch.get_autocast_dtype(device)
        states, weight = states.to(dtype), weight.to(dtype)
    with torch.autocast(device, enabled=False):
        weight = weight.to(states.dtype)
        return _LinearCrossEntropy.apply(states, weight, bias, targets, row_weights, torch.is_grad_enabled())


def sampled_cross_entropy(
    states: Tensor,
    weight: Tensor,
    targets: Tensor,
    negatives: Tensor,
    log_counts: Tensor | float = 0.0,
    bias: Tensor | None = None,
) -> Tensor:
    """Sum over rows of the cross-entropy over a row's target and sampled negatives that all rows share.

    A negative's logit is lowered by the log of how often it is drawn on average, log(S·q) (Bengio & Senécal 2008;
    Yi et al., Sampling-Bias-Corrected Neural Modeling, 2019). The target, which is always there, has no correction,
    and a negative that is the row's target does not count: `exp(target) + Σ exp(corrected)` is then on average the sum
    over the whole vocabulary, and the loss comes to [`linear_cross_entropy`] with more negatives.

    Args:
        states (`torch.FloatTensor` of shape `(rows, width)`): what predicts.
        weight (`torch.FloatTensor` of shape `(vocabulary, width)`): output embeddings.
        targets (`torch.LongTensor` of shape `(rows,)`): rows of `weight`.
        negatives (`torch.LongTensor` of shape `(S,)`): rows of `weight`, drawn with replacement.
        log_counts (`torch.FloatTensor` of shape `(S,)` or `float`, *optional*, defaults to 0.0): log(S·q) of each
            negative, q its probability of being drawn; 0: no correction.
        bias (`torch.FloatTensor` of shape `(vocabulary,)`, *optional*): added to the logits.

    Returns:
        The sum, a scalar in single precision or wider; 0 without rows.
    """
    wide = torch.promote_types(states.dtype, torch.float32)
    own = (states.to(wide) * F.embedding(targets, weight).to(wide)).sum(1)
    others = (states @ F.embedding(negatives, weight).T).to(wide)
    if bias is not None:
        own, others = own + bias[targets], others + bias[negatives]
    others = (others - log_counts).masked_fill(negatives == targets[:, None], -torch.inf)
    return (torch.logaddexp(own, others.logsumexp(1)) - own).sum()


def cross_entropy_of_valid(logits: Tensor, codes: Tensor, valid_codes: Tensor) -> Tensor:
    """Sum over rows of the cross-entropy of a level's logits with codes, normalised over those that exist.

    Args:
        logits (`torch.Tensor` of shape `(rows, codes of the level)`): of the level, in any precision.
        codes (`torch.LongTensor` of shape `(rows,)`): the codes to predict; -100 is left out.
        valid_codes (`torch.BoolTensor` of shape `(rows, at least the codes of the level)`):
            which codes some item has after the row's prefix; the row's own is one of them.

    Returns:
        The sum, a scalar in single precision or wider; 0 without rows.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logits = logits.masked_fill(~valid_codes[:, : logits.shape[1]], -torch.inf)
    return F.cross_entropy(logits, codes, reduction="sum")
