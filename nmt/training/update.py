"""One optimiser update: from the pieces of a batch to new weights."""

import dataclasses
import math
from collections.abc import Sequence

import torch

from nmt import errors
from nmt.data import batches
from nmt.models import seq2seq
from nmt.runtime import device as devices
from nmt.runtime import distributed, memory
from nmt.training import ema, guided, layouts, loss, optimizers


@dataclasses.dataclass(frozen=True)
class UpdateResult:
    """What an update leaves behind for the log; tensors on the device, so that nothing waits.

    Attributes:
        loss: summed smoothed loss of the batch.
        nll: summed negative log-likelihood.
        grad_norm: norm of the gradient before clipping.
        is_taken: bool, whether loss and norm are finite; otherwise weights and moments are as
            they were before.
        has_failed: bool, whether an update that was not taken is a bad sign. One is not while the
            scale of an fp16 loss is still looked for: overflow is how it is found.
    """

    loss: torch.Tensor
    nll: torch.Tensor
    grad_norm: torch.Tensor
    is_taken: torch.Tensor
    has_failed: torch.Tensor


def summed_loss(
    model: seq2seq.Seq2Seq,
    piece: batches.Piece,
    smoothing: float,
    divergence: float = 0.0,
    guidance: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the summed smoothed loss and negative log-likelihood of one piece.

    With a guidance (see `guided.alignment_loss`), that much of the cross-entropy between alignments and
    attention is part of the loss.

    With a divergence (see `loss.smoothed_cross_entropy`), every pair of the piece goes through the
    model twice, with other dropout, and both sums are the mean of the two passes.
    """
    if not divergence:
        states_BTE, attention_BTS = model(
            piece.src_BS, piece.src_mask_BS, piece.tgt_in_BT, with_attention=guidance > 0
        )
        states_NE = states_BTE.flatten(0, 1).index_select(0, piece.real_N)
        total, nll = loss.smoothed_cross_entropy(
            states_NE, model.output.weight, piece.tgt_out_N, smoothing
        )
        if guidance and piece.links_2L is not None:
            total = total + guidance * guided.alignment_loss(attention_BTS, piece.links_2L)
        return total, nll
    twice = (ids.repeat(2, 1) for ids in (piece.src_BS, piece.src_mask_BS, piece.tgt_in_BT))
    states_XTE, _ = model(*twice)
    passes_2NE = states_XTE.view(2, -1, states_XTE.shape[2]).index_select(1, piece.real_N)
    total, nll = loss.smoothed_cross_entropy(
        passes_2NE.transpose(0, 1).flatten(0, 1),
        model.output.weight,
        piece.tgt_out_N.repeat_interleave(2),
        smoothing,
        divergence,
    )
    return total / 2, nll / 2


class Updater:
    """Model, optimiser and arithmetic, ready to take batches.

    Attributes:
        model: in training mode.
        optimizer: over the trained parameters.
        ema: the moving average of the weights, or None.
        scaler: of the loss, in fp16.
        device_tokens: positions of a piece that are known to fit the device, or None while
            everything did.
        group: the processes whose gradients are summed.
        memory_limit: of the process while it computes gradients, in MiB, or None.
        layout: where the tensors are; to be set before the first update if that is not here.
        is_amid_step: whether an error has come amid a step of the optimiser, which leaves weights that no
            run ever had.
    """

    def __init__(
        self,
        model: seq2seq.Seq2Seq,
        optimizer: optimizers.AnyOptimizer,
        arithmetic: devices.Arithmetic,
        *,
        smoothing: float,
        clip_norm: float | None,
        divergence: float = 0.0,
        guidance: float = 0.0,
        ema_decay: float | None = None,
        group: distributed.Group | None = None,
    ) -> None:
        """Takes the parts of a run.

        Args:
            model: on the device, in training mode.
            optimizer: over the model's trained parameters.
            arithmetic: device and precision.
            smoothing: label smoothing.
            divergence: weight of the divergence between two passes, or 0 for one pass.
            guidance: weight of the loss of alignments, for models that attend.
            clip_norm: largest gradient norm, or None.
            ema_decay: of the moving average of the weights, or None for no average.
            group: the processes that share each batch, or None for this one alone.
        """
        self.model = model
        self.group = group or distributed.Alone()
        self.optimizer = optimizer
        self.device_tokens: int | None = None
        self.memory_limit: int | None = None
        self.layout: layouts.Layout = layouts.Whole()
        self.is_amid_step = False
        self._arithmetic = arithmetic
        self._smoothing, self._divergence, self._guidance = smoothing, divergence, guidance
        self._clip_norm = clip_norm if clip_norm is not None else float("inf")
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self.ema = None if ema_decay is None else ema.MovingAverage(model, ema_decay)
        self.scaler = torch.amp.GradScaler(arithmetic.device.type, enabled=arithmetic.needs_scaler)

    def update(
        self,
        pieces: Sequence[batches.Piece],
        num_tokens: int,
        rate: float,
        *,
        seed: int | None = None,
    ) -> UpdateResult:
        """Goes one update with the mean gradient over all tokens of all pieces.

        Pieces for which memory runs out are halved, and the gradient is made again from its
        beginning, on every rank: the sum stays that of the whole batch.

        Args:
            pieces: the share of this rank, cut so that each fits the device; it may be empty.
            num_tokens: real target tokens of the batch, over all ranks.
            rate: the learning rate.
            seed: of all that is random in this update; None goes on with the generators as they are.

        Raises:
            errors.TrainingError: a single pair does not fit into memory; with sharded weights, a piece
                does not, or another rank has gone.
        """
        with self.layout.in_touch():
            return self._update(pieces, num_tokens, rate, seed)

    def _update(
        self, pieces: Sequence[batches.Piece], num_tokens: int, rate: float, seed: int | None
    ) -> UpdateResult:
        optimizers.set_rate(self.optimizer, rate)
        total, nll = self._gradient(pieces, num_tokens, seed)
        for part in optimizers.parts(self.optimizer):
            self.scaler.unscale_(part)
        grad_norm = self.layout.plain(
            torch.nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
        )
        is_taken = torch.isfinite(grad_norm) & torch.isfinite(total)
        has_failed = ~is_taken
        if self._arithmetic.needs_scaler:
            # A loss is not scaled, so it has no excuse; a gradient has until the scale is 1.
            scale = self.scaler.scale(torch.ones_like(total))
            has_failed &= ~torch.isfinite(total) | (scale <= 1.0)
        # Ranks may meet within a step (`division`), where one of them may be lost.
        self.is_amid_step = True
        optimizers.step(self.optimizer, self.layout.replicated(is_taken))
        self.is_amid_step = False
        self.scaler.update()
        if self.ema is not None:
            self.ema.update()
        return UpdateResult(total, nll, grad_norm, is_taken, has_failed)

    def fits(self, piece: batches.Piece) -> bool:
        """Returns whether forward and backward of this piece fit; leaves no gradient behind."""
        _, too_large = self._accumulate([piece], 1, None)
        self.optimizer.zero_grad(set_to_none=True)
        if too_large is not None:
            memory.give_back(self._arithmetic.device)
        return too_large is None

    def _gradient(
        self, pieces: Sequence[batches.Piece], num_tokens: int, seed: int | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Leaves the mean gradient with the parameters; returns summed loss and nll."""
        if self.layout.is_sharded:
            return self._gradient_in_step(pieces, num_tokens, seed)
        while True:
            fitting = batches.fitted(pieces, self.device_tokens)
            sums, too_large = self._accumulate(fitting, num_tokens, seed)
            # Here, not where the error was caught: there it would still hold the tensors.
            if too_large is not None:
                self.optimizer.zero_grad(set_to_none=True)
                memory.give_back(self._arithmetic.device)
            limit, used = self._agree(too_large)
            if limit is None:
                return self._summed(*sums, used)
            # For all ranks, so that the run cuts alike when it is resumed, by any of them.
            self.device_tokens = limit

    def _gradient_in_step(
        self, pieces: Sequence[batches.Piece], num_tokens: int, seed: int | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The same with sharded weights, for which all ranks go through equally many passes.

        Gradients are summed on the way back, so only the losses are left to be. A piece for which
        memory runs out cannot be cut: the other ranks wait in the middle of a pass.
        """
        fitting = batches.fitted(pieces, self.device_tokens)
        (fewest,) = self.group.meet([-len(fitting)])
        sums, too_large = self._accumulate(fitting, num_tokens, seed)
        if too_large is not None:
            raise errors.TrainingError(
                "out of memory: with training.sharding: full no piece is cut on the way (given: "
                f"{batches.num_positions(too_large)} tokens of a side, padding included). The "
                "checkpoints are as they were. Set training.max_device_tokens below that, and start "
                "anew."
            )
        for _ in range(int(-fewest) - len(fitting)):
            with self._arithmetic.autocast():
                idle_loss, _ = self._loss(_idle_piece(self._arithmetic.device))
            (0.0 * idle_loss).backward()  # type: ignore[no-untyped-call]
        totals = self._totals(*sums)
        self.group.sum([totals])
        return totals[0], totals[1]

    def _loss(self, piece: batches.Piece) -> tuple[torch.Tensor, torch.Tensor]:
        return self.layout.run(
            lambda: summed_loss(
                self.model, piece, self._smoothing, self._divergence, self._guidance
            )
        )

    def _agree(self, too_large: batches.Piece | None) -> tuple[int | None, list[bool]]:
        """Returns what all ranks have to know before gradients are summed.

        That is how many positions some rank has to cut its pieces to, or None if all are done; and of
        each parameter, whether any rank has a gradient. One that no rank uses stays without.
        """
        wanted, failure = math.inf, None
        if too_large is not None:
            try:
                wanted = _smaller(too_large)
            except errors.TrainingError as error:
                failure = error
        is_used = [-float(parameter.grad is not None) for parameter in self._parameters]
        limit, *used = self.group.meet([wanted, *is_used], failure)
        return None if math.isinf(limit) else int(limit), [value < 0.0 for value in used]

    def _summed(
        self, losses: list[torch.Tensor], nlls: list[torch.Tensor], used: list[bool]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns loss and nll over all pieces of all ranks, and sums the gradients likewise."""
        if self.group.size == 1:
            return torch.stack(losses).sum(), torch.stack(nlls).sum()
        totals = self._totals(losses, nlls)
        gradients = []
        for parameter, is_used in zip(self._parameters, used, strict=True):
            if is_used and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if parameter.grad is not None:
                gradients.append(parameter.grad)
        # The scale of fp16 is made at first use, which an empty share has none of.
        self.scaler.scale(totals)
        self.group.sum([*gradients, totals])
        return totals[0], totals[1]

    def _totals(self, losses: list[torch.Tensor], nlls: list[torch.Tensor]) -> torch.Tensor:
        """Returns loss and nll of this rank, float64 [2]."""
        totals = torch.zeros(2, dtype=torch.float64, device=self._arithmetic.device)
        for number, values in enumerate((losses, nlls)):
            if values:
                totals[number] = torch.stack(values).sum()
        return totals

    def _accumulate(
        self, pieces: Sequence[batches.Piece], num_tokens: int, seed: int | None
    ) -> tuple[tuple[list[torch.Tensor], list[torch.Tensor]], batches.Piece | None]:
        """Returns the losses and nlls of the pieces, and the first one that does not fit."""
        if seed is not None:
            devices.seed_everything(seed)
        self.optimizer.zero_grad(set_to_none=True)
        losses: list[torch.Tensor] = []
        nlls: list[torch.Tensor] = []
        for piece in pieces:
            try:
                with memory.limited(self.memory_limit):
                    with self._arithmetic.autocast():
                        piece_loss, piece_nll = self._loss(piece)
                    scaled = self.scaler.scale(piece_loss / num_tokens)
                    scaled.backward()  # type: ignore[no-untyped-call]
            except (RuntimeError, MemoryError) as error:
                if not memory.is_exhausted(error):
                    raise
                return (losses, nlls), piece
            losses.append(piece_loss.detach())
            nlls.append(piece_nll)
        return (losses, nlls), None


def _idle_piece(device: torch.device) -> batches.Piece:
    """Returns the smallest piece there can be, for a rank that has none while others compute."""
    id_11 = torch.zeros(1, 1, dtype=torch.int64, device=device)
    return batches.Piece(
        src_BS=id_11,
        src_mask_BS=torch.ones_like(id_11, dtype=torch.bool),
        tgt_in_BT=id_11,
        real_N=id_11[0],
        tgt_out_N=id_11[0],
    )


def _smaller(piece: batches.Piece) -> int:
    """Returns the positions of the larger half of a piece that did not fit.

    Raises:
        errors.TrainingError: it is a single pair.
    """
    num_pairs, src_length = piece.src_BS.shape
    tgt_length = piece.tgt_in_BT.shape[1]
    if num_pairs == 1:
        raise too_long(src_length, tgt_length)
    return (num_pairs + 1) // 2 * max(src_length, tgt_length)


def too_long(src_length: int, tgt_length: int) -> errors.TrainingError:
    """Returns the error for a pair of these lengths (tokens) that does not fit by itself."""
    return errors.TrainingError(
        f"out of memory: a single pair does not fit (given: {src_length} source and "
        f"{tgt_length} target tokens). What was trained so far is kept. Start a run with "
        f"data.max_length below {max(src_length, tgt_length)} or a smaller model, or go on with "
        "more memory."
    )
