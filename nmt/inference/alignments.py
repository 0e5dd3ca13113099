"""From attention between pieces to alignments between words.

Words are what stands between spaces in the text that the tokenizer sees. Each target word is aligned
with the one source word that its pieces attend to most, the end of the source left out.
"""

from collections.abc import Sequence

import torch

# Pairs of source word and target word, both counted from 0.
Alignment = tuple[tuple[int, int], ...]


def align(
    attention_TS: torch.Tensor, src_words: Sequence[int], tgt_words: Sequence[int]
) -> Alignment:
    """Returns the source word that each target word attends to most.

    Args:
        attention_TS: on the host; how much each target piece attends to each source piece, of which
            those behind `src_words` and `tgt_words` are left out.
        src_words: the word of each source piece, or -1.
        tgt_words: the same of each target piece.
    """
    num_src, num_tgt = max(src_words, default=-1) + 1, max(tgt_words, default=-1) + 1
    if not num_src or not num_tgt:
        return ()
    weights_TS = attention_TS[: len(tgt_words), : len(src_words)].to(torch.float64)
    to_words_TW = _sum(weights_TS.t(), src_words, num_src).t()
    by_words_WW = _sum(to_words_TW, tgt_words, num_tgt)
    best: list[int] = by_words_WW.argmax(1).tolist()
    return tuple(sorted((src, tgt) for tgt, src in enumerate(best)))


def best_sources(attention_TS: torch.Tensor, src_words: Sequence[int]) -> list[int]:
    """Returns the source word that each target piece attends to most; arguments as for `align`."""
    num_src = max(src_words, default=-1) + 1
    if not num_src:
        return [-1] * attention_TS.shape[0]
    weights_TS = attention_TS[:, : len(src_words)].to(torch.float64)
    best: list[int] = _sum(weights_TS.t(), src_words, num_src).argmax(0).tolist()
    return best


def pharaoh(alignment: Alignment) -> str:
    """Returns `0-0 1-2`: source word, target word."""
    return " ".join(f"{src}-{tgt}" for src, tgt in alignment)


def _sum(rows_PX: torch.Tensor, words: Sequence[int], count: int) -> torch.Tensor:
    """Returns the sum of the rows of each word [count, X]."""
    # What belongs to no word goes into a row of its own, which is dropped.
    index = torch.tensor([word if word >= 0 else count for word in words])
    sums = rows_PX.new_zeros((count + 1, rows_PX.shape[1])).index_add(0, index, rows_PX)
    return sums[:count]
