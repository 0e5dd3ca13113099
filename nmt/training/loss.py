"""Label-smoothed cross-entropy of the output layer, without ever keeping the logits.

Logits are by far the largest tensor of a training run: tokens times vocabulary. Here they are made a
chunk of rows at a time, in one buffer that becomes probabilities and then gradients; the gradients
of states and weights are made from it on the spot, in the forward pass, and backward only multiplies
them by the gradient that comes in.

With p the probabilities, t the target and s the smoothing, the gradient of the logits is
p - (1 - s) onehot(t) - s / V. Only the first two terms go through the large buffer: the last one is
the same for every token and piece, so that its two products with weights and states are sums of
rows. Likewise the mean logit, which the smoothed loss needs, is a product with the mean weight.
"""

from typing import Any

import torch
from torch.autograd import function
from torch.nn import functional as F

from nmt.models import products

# Rows at a time: small enough to stay in the cache, large enough for full speed of the products and
# few additions to the weights' gradient (measured from 64 to 4,096: docs/performance.md).
CHUNK_ROWS = 1024


def smoothed_cross_entropy(
    states_NE: torch.Tensor,
    weight_VE: torch.Tensor,
    targets_N: torch.Tensor,
    smoothing: float,
    divergence: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the summed smoothed loss (with gradient) and the summed negative log-likelihood.

    The loss of a token is (1 - s) * -log p(target) + s * mean over V of -log p(v). With a divergence
    d, rows 2i and 2i + 1 are one token in two passes of the model, with distributions p and q, and
    d / 2 * (KL(p || q) + KL(q || p)) is added for each such pair.

    Source: Szegedy et al. 2016, section 7, with the uniform distribution over the vocabulary; the
    divergence is that of R-Drop (Liang et al. 2021, equations 2 and 4).

    Args:
        states_NE: decoder states at N real tokens.
        weight_VE: the output layer.
        targets_N: int64 target ids.
        smoothing: s in [0, 1).
        divergence: d; with any but 0 the rows come in pairs.
    """
    device_type = states_NE.device.type
    dtype = states_NE.dtype
    if torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
    wants_gradient = torch.is_grad_enabled() and (
        states_NE.requires_grad or weight_VE.requires_grad
    )
    loss, nll = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        states_NE, weight_VE, targets_N, (smoothing, divergence), dtype, wants_gradient
    )
    return loss, nll


class _Chunks:
    """One pass over the rows of a batch."""

    def __init__(
        self,
        states_NE: torch.Tensor,
        weight_VE: torch.Tensor,
        targets_N: torch.Tensor,
        weights: tuple[float, float],
        dtype: torch.dtype,
    ) -> None:
        self._states_NE = states_NE
        # R: the rows, and zeros after them, which add nothing to a gradient; see `products`.
        extra = products.rounded(len(states_NE)) - len(states_NE)
        self._cast_RE = F.pad(states_NE.to(dtype), (0, 0, 0, extra))
        self._target_R1 = F.pad(targets_N, (0, extra)).unsqueeze(1)
        self._weight_VE = weight_VE
        self._cast_VE = weight_VE.to(dtype)
        self._smoothing, self._divergence = weights
        self._is_on_cpu = states_NE.device.type == "cpu"
        self._sum_dtype = torch.promote_types(weight_VE.dtype, torch.float32)
        self._mean_E = weight_VE.mean(0)
        self._grad_RE = torch.empty_like(self._cast_RE)
        self._grad_VE = torch.zeros_like(weight_VE)

    def run(self, *, wants_gradient: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the summed loss and the summed negative log-likelihood."""
        num_rows, num_pieces = self._cast_RE.shape[0], self._weight_VE.shape[0]
        # oneDNN makes its results itself, in float32; everything else is written where the last chunk was.
        buffer_CV = None
        if not products.onednn_takes(self._cast_RE):
            buffer_CV = self._cast_RE.new_empty(min(num_rows, CHUNK_ROWS), num_pieces)
        targets, log_sums = [], []
        divergences = [self._states_NE.new_zeros((), dtype=self._sum_dtype)]
        for begin in range(0, num_rows, CHUNK_ROWS):
            rows = slice(begin, begin + CHUNK_ROWS)
            chunk_CE, target_C1 = self._cast_RE[rows], self._target_R1[rows]
            if buffer_CV is None:
                logits_CV = products.by_rows(chunk_CE, self._cast_VE.t())
            else:
                logits_CV = buffer_CV[: chunk_CE.shape[0]]
                torch.mm(chunk_CE, self._cast_VE.t(), out=logits_CV)
            target_logits_C1 = logits_CV.gather(1, target_C1).to(self._sum_dtype)
            # On CPU, where it pays, the sum is had from the target's probability instead.
            log_sums_C1 = None if self._is_on_cpu else self._log_sums(logits_CV)
            probs_CV = torch.softmax(logits_CV, 1, out=logits_CV)
            probs_C1 = probs_CV.gather(1, target_C1)
            if log_sums_C1 is None:
                log_sums_C1 = self._log_sums_from(target_logits_C1, probs_C1, rows)
            change_CV = None
            if self._divergence:
                divergence, change_CV = _divergence(probs_CV, self._sum_dtype)
                divergences.append(divergence)
            if wants_gradient:
                self._add_gradients(rows, probs_CV, probs_C1, change_CV)
            targets.append(target_logits_C1)
            log_sums.append(log_sums_C1)
            del logits_CV, probs_CV  # before the next chunk's are made
        num_real = self._states_NE.shape[0]
        loss, nll = self._losses(torch.cat(targets)[:num_real], torch.cat(log_sums)[:num_real])
        return loss + 0.5 * self._divergence * torch.stack(divergences).sum(), nll

    def _log_sums(self, logits_CV: torch.Tensor) -> torch.Tensor:
        """Returns the logarithm of each row's sum of exponentials, [C, 1]."""
        return torch.logsumexp(logits_CV.to(self._sum_dtype), 1, keepdim=True)

    def _log_sums_from(
        self, target_logits_C1: torch.Tensor, probs_C1: torch.Tensor, rows: slice
    ) -> torch.Tensor:
        """Returns the same from log p(t) = logit(t) - log sum, where p(t) is not too small for it."""
        probs_C1 = probs_C1.to(self._sum_dtype)
        log_sums_C1 = target_logits_C1 - probs_C1.log()
        lost_C = (probs_C1 < torch.finfo(probs_C1.dtype).tiny).squeeze(1)
        if lost_C.any():
            again_LV = torch.mm(self._cast_RE[rows][lost_C], self._cast_VE.t())
            log_sums_C1[lost_C] = self._log_sums(again_LV)
        return log_sums_C1

    def _add_gradients(
        self,
        rows: slice,
        probs_CV: torch.Tensor,
        target_probs_C1: torch.Tensor,
        change_CV: torch.Tensor | None,
    ) -> None:
        # In place: the buffer is filled anew for the next chunk. Not scatter_, which on CPU copies
        # the whole buffer twice.
        grad_CV = probs_CV
        row_C = torch.arange(grad_CV.shape[0], device=grad_CV.device)
        values_C = target_probs_C1.squeeze(1) - (1.0 - self._smoothing)
        grad_CV.index_put_((row_C, self._target_R1[rows].squeeze(1)), values_C)
        if change_CV is not None:
            grad_CV.add_(change_CV, alpha=0.5 * self._divergence)
        self._grad_RE[rows] = products.by_rows(grad_CV, self._cast_VE)
        self._grad_VE += torch.mm(grad_CV.t(), self._cast_RE[rows])

    def _losses(
        self, target_logits_N1: torch.Tensor, log_sums_N1: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        nll = (log_sums_N1 - target_logits_N1).sum()
        sum_E = self._states_NE.sum(0, dtype=self._sum_dtype)
        uniform = log_sums_N1.sum() - torch.dot(sum_E, self._mean_E.to(self._sum_dtype))
        return (1.0 - self._smoothing) * nll + self._smoothing * uniform, nll

    def gradients(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the gradients of states and weights, with the uniform term in place."""
        grad_NE = self._grad_RE[: self._states_NE.shape[0]].to(self._states_NE.dtype)
        grad_NE -= (self._smoothing * self._mean_E).to(grad_NE.dtype)
        share = self._smoothing / self._weight_VE.shape[0]
        self._grad_VE -= share * self._states_NE.sum(0, dtype=self._grad_VE.dtype)
        return grad_NE, self._grad_VE


def _divergence(
    probs_CV: torch.Tensor, sum_dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the sum over pairs of KL(p || q) + KL(q || p), and its gradient by the logits, [C, V].

    Args:
        probs_CV: p of a pair and its q in turn; C is even.
        sum_dtype: that of sums over V.
    """
    pairs_P2V = probs_CV.view(-1, 2, probs_CV.shape[1])
    # Nothing is so improbable that its logarithm is not a number.
    logs_P2V = pairs_P2V.clamp_min(torch.finfo(probs_CV.dtype).tiny).log_()
    ratios_PV = logs_P2V[:, 0] - logs_P2V[:, 1]
    p_PV, q_PV = pairs_P2V[:, 0], pairs_P2V[:, 1]
    forward_P1 = (p_PV * ratios_PV).sum(1, keepdim=True, dtype=sum_dtype)
    backward_P1 = -(q_PV * ratios_PV).sum(1, keepdim=True, dtype=sum_dtype)
    change_P2V = torch.empty_like(pairs_P2V)
    # By the logits of p: p (log p / q - KL(p || q)) from the one and p - q from the other.
    torch.sub(p_PV, q_PV, out=change_P2V[:, 0])
    torch.sub(q_PV, p_PV, out=change_P2V[:, 1])
    change_P2V[:, 0].addcmul_(p_PV, ratios_PV - forward_P1.to(ratios_PV.dtype))
    change_P2V[:, 1].addcmul_(q_PV, ratios_PV + backward_P1.to(ratios_PV.dtype), value=-1.0)
    return forward_P1.sum() + backward_P1.sum(), change_P2V.view_as(probs_CV)


class _LinearCrossEntropy(function.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states_NE: torch.Tensor,
        weight_VE: torch.Tensor,
        targets_N: torch.Tensor,
        weights: tuple[float, float],
        dtype: torch.dtype,
        wants_gradient: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast(states_NE.device.type, enabled=False):
            chunks = _Chunks(states_NE, weight_VE, targets_N, weights, dtype)
            loss, nll = chunks.run(wants_gradient=wants_gradient)
            grad_states_NE, grad_weight_VE = chunks.gradients() if wants_gradient else (None, None)
        ctx.save_for_backward(grad_states_NE, grad_weight_VE)
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_states_NE, grad_weight_VE = ctx.saved_tensors
        factor = grad_outputs[0]
        return (
            grad_states_NE * factor.to(grad_states_NE.dtype),
            grad_weight_VE * factor.to(grad_weight_VE.dtype),
            None,
            None,
            None,
            None,
        )
