"""Forced decoding: how probable a model finds a given translation."""

import dataclasses
from collections.abc import Sequence

import torch

from nmt.config import schema
from nmt.data import batches
from nmt.inference import translator
from nmt.models import seq2seq
from nmt.runtime import device as devices
from nmt.search import settings as search_settings


@dataclasses.dataclass(frozen=True)
class PairScore:
    """How probable a target is, given its source.

    Attributes:
        log_probability: sum over the target tokens, EOS included.
        num_tokens: those tokens.
        score: `log_probability` over the length penalty, as search reports it.
    """

    log_probability: float
    num_tokens: int
    score: float


class Scorer:
    """A model with its tokenizers, ready to score pairs."""

    def __init__(
        self,
        model: seq2seq.Seq2Seq,
        texts: translator.Texts,
        decoding: schema.DecodingConfig,
        arithmetic: devices.Arithmetic,
    ) -> None:
        """Takes the parts; arguments as for `Translator`."""
        self._model = model
        self._texts = texts
        self._decoding = decoding
        self._arithmetic = arithmetic

    def score(self, src_lines: Sequence[str], tgt_lines: Sequence[str]) -> list[PairScore]:
        """Returns the score of each pair of lines.

        Args:
            src_lines: sources, cut at `decoding.max_src_tokens`.
            tgt_lines: targets, cut where the model has no more positions.
        """
        src_ids = self._texts.src.encode_batch(src_lines)
        tgt_ids = self._texts.tgt.encode_batch(tgt_lines)
        return self.score_ids(src_ids, tgt_ids)

    def score_ids(
        self, src_ids: Sequence[Sequence[int]], tgt_ids: Sequence[Sequence[int]]
    ) -> list[PairScore]:
        """Returns the score of each pair of id sequences, given without BOS and EOS."""
        src_limit, tgt_limit = self._limits()
        sources = [
            torch.tensor([*ids[:src_limit], self._texts.src.vocab.eos_id]) for ids in src_ids
        ]
        targets = [
            torch.tensor([*ids[:tgt_limit], self._texts.tgt.vocab.eos_id]) for ids in tgt_ids
        ]
        order = sorted(range(len(targets)), key=lambda i: (len(targets[i]), len(sources[i])))
        results: dict[int, PairScore] = {}
        begin = 0
        while begin < len(order):
            # Sorted upwards, so the budget is measured at the last sentence that might still fit.
            end = begin + 1
            while end < len(order) and self._fits(order[begin : end + 1], sources, targets):
                end += 1
            chosen = order[begin:end]
            found = self._score([sources[i] for i in chosen], [targets[i] for i in chosen])
            results.update(zip(chosen, found, strict=True))
            begin = end
        return [results[index] for index in range(len(targets))]

    def _fits(
        self,
        chosen: Sequence[int],
        sources: Sequence[torch.Tensor],
        targets: Sequence[torch.Tensor],
    ) -> bool:
        longest = max(len(targets[chosen[-1]]), *(len(sources[index]) for index in chosen))
        return longest * len(chosen) <= self._decoding.batch_tokens

    def _limits(self) -> tuple[int, int | None]:
        """Returns the longest source and target, EOS not counted."""
        limits = [self._decoding.max_src_tokens, self._model.max_src_positions]
        tgt_limit = self._model.max_tgt_positions
        return (
            min(limit for limit in limits if limit is not None) - 1,
            None if tgt_limit is None else tgt_limit - 1,
        )

    @torch.inference_mode()
    def _score(
        self, sources: Sequence[torch.Tensor], targets: Sequence[torch.Tensor]
    ) -> list[PairScore]:
        device, ids = self._arithmetic.device, self._texts.tgt.vocab
        src_BS, src_mask_BS = batches.pad(list(sources), self._texts.src.vocab.pad_id)
        tgt_BT, tgt_mask_BT = batches.pad(list(targets), ids.pad_id)
        bos_B1 = torch.full((len(targets), 1), ids.bos_id)
        tgt_in_BT = torch.cat([bos_B1, tgt_BT[:, :-1]], dim=1)
        with self._arithmetic.autocast():
            states_BTE, _ = self._model(
                src_BS.to(device), src_mask_BS.to(device), tgt_in_BT.to(device)
            )
            logits_BTV = self._model.logits(states_BTE)
        dtype = torch.promote_types(logits_BTV.dtype, torch.float32)
        log_probs_BTV = torch.log_softmax(logits_BTV, dim=-1, dtype=dtype)
        chosen_BT = log_probs_BTV.gather(2, tgt_BT.to(device).unsqueeze(2)).squeeze(2)
        sums = chosen_BT.masked_fill(~tgt_mask_BT.to(device), 0.0).sum(1).tolist()
        return [
            PairScore(
                total,
                len(target),
                total / float(search_settings.penalty(len(target), self._decoding.length_penalty)),
            )
            for total, target in zip(sums, targets, strict=True)
        ]
