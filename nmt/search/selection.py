"""The best continuations of all hypotheses of a sentence."""

import torch

# The vocabulary is looked at in chunks of this many ids, to find the best without sorting them all.
CHUNK = 64


def log_probabilities(logits_NV: torch.Tensor) -> torch.Tensor:
    """Returns log-probabilities [N, V], in float32 at least whatever the logits were made in."""
    dtype = torch.promote_types(logits_NV.dtype, torch.float32)
    return torch.log_softmax(logits_NV, dim=-1, dtype=dtype)


def best(
    scores_BKV: torch.Tensor, count: int, before_BK: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the best continuations over all hypotheses of each sentence, best first.

    Exact in two stages: the `count` best entries lie in the `count` chunks with the best maxima. What a
    hypothesis has already is added to maxima and to few entries, not to all: rounding keeps the order of
    sums with one number, so the maximum of a chunk's sums is the sum with its maximum, bit for bit.

    Args:
        scores_BKV: score of each continuation.
        count: how many are wanted.
        before_BK: what is added to all continuations of a hypothesis; None for nothing.

    Returns:
        Scores, hypotheses and tokens, each [B, count] (fewer where K * V is smaller).
    """
    num_sentences, beam, num_tokens = scores_BKV.shape
    if beam * num_tokens <= count * CHUNK * 2:
        sums_BKV = scores_BKV if before_BK is None else scores_BKV + before_BK.unsqueeze(2)
        flat_BX = sums_BKV.reshape(num_sentences, -1)
        scores_BC, places_BC = flat_BX.topk(min(count, flat_BX.shape[1]), dim=1)
        return scores_BC, places_BC // num_tokens, places_BC % num_tokens
    # Each hypothesis has chunks of its own, and the tail is looked at by itself: filling it up would
    # copy everything, which costs more than all the rest.
    whole = num_tokens // CHUNK * CHUNK
    chunks_BKYC = scores_BKV[:, :, :whole].view(num_sentences, beam, -1, CHUNK)
    maxima_BKY = chunks_BKYC.amax(3)
    if whole < num_tokens:
        tail_BK1 = scores_BKV[:, :, whole:].amax(2, keepdim=True)
        maxima_BKY = torch.cat([maxima_BKY, tail_BK1], dim=2)
    if before_BK is not None:
        maxima_BKY = maxima_BKY + before_BK.unsqueeze(2)
    num_chunks = maxima_BKY.shape[2]
    chosen_BC = maxima_BKY.flatten(1).topk(count, dim=1).indices
    inner_X = torch.arange(CHUNK, device=scores_BKV.device)
    tokens_BCX = (chosen_BC % num_chunks * CHUNK).unsqueeze(2) + inner_X
    # What the last chunk lacks to be whole has no place.
    is_missing_BCX = tokens_BCX >= num_tokens
    hypotheses_BC1 = (chosen_BC // num_chunks).unsqueeze(2)
    places_BX = (
        (hypotheses_BC1 * num_tokens + tokens_BCX).masked_fill_(is_missing_BCX, 0).flatten(1)
    )
    inside_BX = scores_BKV.reshape(num_sentences, -1).gather(1, places_BX)
    if before_BK is not None:
        before_BCX = before_BK.gather(1, hypotheses_BC1.squeeze(2)).unsqueeze(2)
        inside_BX = (inside_BX.view(is_missing_BCX.shape) + before_BCX).flatten(1)
    inside_BX = inside_BX.masked_fill(is_missing_BCX.flatten(1), float("-inf"))
    scores_BC, inner_BC = inside_BX.topk(count, dim=1)
    places_BC = places_BX.gather(1, inner_BC)
    return scores_BC, places_BC // num_tokens, places_BC % num_tokens
