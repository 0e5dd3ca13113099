"""The best continuations of all hypotheses of a sentence."""

import torch
from torch.nn import functional as F

# The vocabulary is looked at in chunks of this many ids, to find the best without sorting them all.
CHUNK = 64


def log_probabilities(logits_NV: torch.Tensor) -> torch.Tensor:
    """Returns log-probabilities [N, V], in float32 at least whatever the logits were made in."""
    dtype = torch.promote_types(logits_NV.dtype, torch.float32)
    return torch.log_softmax(logits_NV, dim=-1, dtype=dtype)


def best(scores_BKV: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the best continuations over all hypotheses of each sentence, best first.

    Exact in two stages: the `count` best entries lie in the `count` chunks with the best maxima.

    Args:
        scores_BKV: score of each continuation.
        count: how many are wanted.

    Returns:
        Scores, hypotheses and tokens, each [B, count] (fewer where K * V is smaller).
    """
    num_sentences, _, num_tokens = scores_BKV.shape
    flat_BX = scores_BKV.reshape(num_sentences, -1)
    if flat_BX.shape[1] <= count * CHUNK * 2:
        scores_BC, places_BC = flat_BX.topk(min(count, flat_BX.shape[1]), dim=1)
    else:
        chunks_BYC = F.pad(flat_BX, (0, -flat_BX.shape[1] % CHUNK), value=float("-inf"))
        chunks_BYC = chunks_BYC.view(num_sentences, -1, CHUNK)
        chosen_BC = chunks_BYC.amax(dim=2).topk(count, dim=1).indices
        inside_BCX = chunks_BYC.gather(1, chosen_BC.unsqueeze(2).expand(-1, -1, CHUNK))
        scores_BC, inner_BC = inside_BCX.flatten(1).topk(count, dim=1)
        chunk_BC = chosen_BC.gather(1, inner_BC // CHUNK)
        # What fills up the last chunk is as good as anything that is forbidden, but has no place.
        places_BC = (chunk_BC * CHUNK + inner_BC % CHUNK).clamp_(max=flat_BX.shape[1] - 1)
    return scores_BC, places_BC // num_tokens, places_BC % num_tokens
