"""One optimiser update: from the pieces of a batch to new weights."""

import dataclasses
from collections.abc import Sequence

import torch

from nmt.data import batches
from nmt.models import seq2seq
from nmt.runtime import device as devices
from nmt.training import loss


@dataclasses.dataclass(frozen=True)
class UpdateResult:
    """What an update leaves behind for the log; tensors on the device, so that nothing waits.

    Attributes:
        loss: summed smoothed loss of the batch.
        nll: summed negative log-likelihood.
        grad_norm: norm of the gradient before clipping.
    """

    loss: torch.Tensor
    nll: torch.Tensor
    grad_norm: torch.Tensor


def summed_loss(
    model: seq2seq.Seq2Seq, piece: batches.Piece, smoothing: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the summed smoothed loss and negative log-likelihood of one piece."""
    states_BTE, _ = model(piece.src_BS, piece.src_mask_BS, piece.tgt_in_BT)
    states_NE = states_BTE.flatten(0, 1).index_select(0, piece.real_N)
    return loss.smoothed_cross_entropy(states_NE, model.output.weight, piece.tgt_out_N, smoothing)


class Updater:
    """Model, optimiser and arithmetic, ready to take batches."""

    def __init__(
        self,
        model: seq2seq.Seq2Seq,
        optimizer: torch.optim.Optimizer,
        arithmetic: devices.Arithmetic,
        *,
        smoothing: float,
        clip_norm: float | None,
    ) -> None:
        """Takes the parts of a run.

        Args:
            model: on the device, in training mode.
            optimizer: over the model's parameters.
            arithmetic: device and precision.
            smoothing: label smoothing.
            clip_norm: largest gradient norm, or None.
        """
        self.model = model
        self.optimizer = optimizer
        self._arithmetic = arithmetic
        self._smoothing = smoothing
        self._clip_norm = clip_norm if clip_norm is not None else float("inf")
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self.scaler = torch.amp.GradScaler(arithmetic.device.type, enabled=arithmetic.needs_scaler)

    def update(self, pieces: Sequence[batches.Piece], num_tokens: int, rate: float) -> UpdateResult:
        """Goes one update with the mean gradient over all tokens of all pieces.

        Args:
            pieces: the batch, cut so that each fits the device.
            num_tokens: real target tokens of all pieces.
            rate: the learning rate.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        losses, nlls = [], []
        for piece in pieces:
            with self._arithmetic.autocast():
                piece_loss, piece_nll = summed_loss(self.model, piece, self._smoothing)
            self.scaler.scale(piece_loss / num_tokens).backward()  # type: ignore[no-untyped-call]
            losses.append(piece_loss.detach())
            nlls.append(piece_nll)
        self.scaler.unscale_(self.optimizer)
        grad_norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return UpdateResult(torch.stack(losses).sum(), torch.stack(nlls).sum(), grad_norm)
