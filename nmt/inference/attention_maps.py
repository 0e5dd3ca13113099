"""Where a model looks while it writes: attention of a translation that is there already."""

from collections.abc import Sequence

import torch

from nmt.data import batches
from nmt.inference import loading


def attention_of(
    loaded: loading.Loaded, source: str, tokens: Sequence[int]
) -> tuple[list[str], list[str], list[list[float]]] | None:
    """Returns source pieces, target pieces (EOS included in both) and a row of weights for each target.

    Args:
        loaded: one model, which attends.
        source: a line.
        tokens: target ids, without BOS and EOS.

    Returns:
        None where the source is blank. One that is too long is cut as for a translation.
    """
    src, tgt = loaded.texts.src, loaded.texts.tgt
    (ids,) = loaded.texts.encode_sources([source])
    if not ids or not source.strip():
        return None
    limits = (loaded.config.decoding.max_src_tokens, loaded.model.max_src_positions)
    ids = ids[: min(limit for limit in limits if limit is not None) - 1]
    device = loaded.arithmetic.device
    src_BS, mask_BS = batches.pad([torch.tensor([*ids, src.vocab.eos_id])], src.vocab.pad_id)
    tgt_in_BT = torch.tensor([[tgt.vocab.bos_id, *tokens]])
    with torch.inference_mode(), loaded.arithmetic.autocast():
        _, attention_BTS = loaded.model(
            src_BS.to(device), mask_BS.to(device), tgt_in_BT.to(device), with_attention=True
        )
    assert attention_BTS is not None, "the model attends"
    columns = [src.vocab.pieces[token] for token in [*ids, src.vocab.eos_id]]
    rows = [tgt.vocab.pieces[token] for token in [*tokens, tgt.vocab.eos_id]]
    return columns, rows, attention_BTS[0].float().cpu().tolist()
