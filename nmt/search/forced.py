"""What a model thinks of given translations, token by token, through the same steps as search."""

import dataclasses
from collections.abc import Sequence

import torch

from nmt.models import base
from nmt.models import state as decoder_state
from nmt.search import hosting, hypotheses, selection


@dataclasses.dataclass(frozen=True)
class Trace:
    """What came up on the way through translations, each K of B sentences.

    Attributes:
        log_probs_BKT: log-probability of each token, EOS included; 0 behind it.
        attention_BKTS: attention of the position that predicts the token; None if not wanted.
    """

    log_probs_BKT: torch.Tensor
    attention_BKTS: torch.Tensor | None

    def on_host(self) -> "Trace":
        """Returns the trace in the memory of the host."""
        attention = None if self.attention_BKTS is None else self.attention_BKTS.cpu()
        return Trace(self.log_probs_BKT.cpu(), attention)

    def of(self, place: int) -> "Trace":
        """Returns the trace of one sentence, and of that the trace of one translation."""
        attention = None if self.attention_BKTS is None else self.attention_BKTS[place]
        return Trace(self.log_probs_BKT[place], attention)


@torch.inference_mode()
def trace(
    model: base.Model,
    src_BS: torch.Tensor,
    src_mask_BS: torch.Tensor,
    targets: Sequence[Sequence[Sequence[int]]],
    ids: hypotheses.SpecialIds,
    *,
    with_attention: bool = False,
) -> Trace:
    """Returns the log-probabilities of given translations, and the attention if wanted.

    Args:
        model: in evaluation mode, on the device of the source.
        src_BS: int64 source ids, EOS at the end, padded.
        src_mask_BS: bool, True at real tokens.
        targets: at least one translation of each sentence, without BOS and EOS.
        ids: special target ids.
        with_attention: only for models that attend.
    """
    most = max(len(own) for own in targets)
    longest = max(len(tokens) for own in targets for tokens in own) + 1
    rows = []
    for own in targets:
        filled = [[*tokens, ids.eos] for tokens in own]
        filled += [[ids.eos]] * (most - len(own))
        rows.append([[*tokens, *[ids.pad] * (longest - len(tokens))] for tokens in filled])
    tokens_BKT = hosting.to_device(rows, src_BS.device)
    state = decoder_state.expand(model.start(model.encode(src_BS, src_mask_BS)), most)
    last_N = torch.full_like(tokens_BKT[:, :, 0], ids.bos).flatten()
    log_probs, attention = [], []
    for next_BK in tokens_BKT.unbind(2):
        states_NE, attention_NS, state = model.step(last_N, state, with_attention=with_attention)
        last_N = next_BK.flatten()
        log_probs_NV = selection.log_probabilities(model.logits(states_NE))
        log_probs.append(log_probs_NV.gather(1, last_N.unsqueeze(1)).view(next_BK.shape))
        if with_attention:
            assert attention_NS is not None, "the model attends"
            attention.append(attention_NS.view(*next_BK.shape, -1))
    log_probs_BKT = torch.stack(log_probs, dim=2).masked_fill(tokens_BKT == ids.pad, 0.0)
    return Trace(log_probs_BKT, torch.stack(attention, dim=2) if with_attention else None)


def with_log_probabilities(
    model: base.Model,
    src_BS: torch.Tensor,
    src_mask_BS: torch.Tensor,
    found: list[list[hypotheses.Hypothesis]],
    ids: hypotheses.SpecialIds,
) -> list[list[hypotheses.Hypothesis]]:
    """Returns the hypotheses with the model's own log-probability in place of the one they have."""
    targets = [[one.tokens for one in own] or [()] for own in found]
    sums_BK = trace(model, src_BS, src_mask_BS, targets, ids).log_probs_BKT.sum(2)
    sums = hosting.to_host(sums_BK)
    return [
        [
            dataclasses.replace(one, log_probability=total)
            for one, total in zip(own, sums[row], strict=False)
        ]
        for row, own in enumerate(found)
    ]
