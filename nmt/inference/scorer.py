"""Forced decoding: how probable a model finds a given translation."""

import dataclasses
from collections.abc import Sequence

import torch

from nmt.config import schema
from nmt.data import batches
from nmt.inference import translator
from nmt.models import base
from nmt.runtime import device as devices
from nmt.runtime import memory
from nmt.search import selection
from nmt.search import settings as search_settings


@dataclasses.dataclass(frozen=True)
class PairScore:
    """How probable a target is, given its source.

    Attributes:
        log_probability: sum over the target tokens, EOS included.
        num_tokens: those tokens.
        score: `log_probability` over the length penalty, as search reports it.
        tokens: target ids, EOS included.
        token_log_probabilities: of each of them.
    """

    log_probability: float
    num_tokens: int
    score: float
    tokens: tuple[int, ...] = ()
    token_log_probabilities: tuple[float, ...] = ()


# What search reports for a blank line, which it never sees.
BLANK = PairScore(0.0, 0, 0.0)


class Scorer:
    """A model with its tokenizers, ready to score pairs.

    Attributes:
        num_cut: pairs so far of which a side was longer than the model reads and was cut.
    """

    def __init__(
        self,
        model: base.ForcedModel,
        texts: translator.Texts,
        decoding: schema.DecodingConfig,
        arithmetic: devices.Arithmetic,
    ) -> None:
        """Takes the parts; arguments as for `Translator`."""
        self._model = model
        self._texts = texts
        self._decoding = decoding
        self._arithmetic = arithmetic
        self.num_cut = 0

    def score_outputs(self, src_lines: Sequence[str], tgt_lines: Sequence[str]) -> list[PairScore]:
        """Returns what search reports for each target as its output, blank lines included.

        Args:
            src_lines: sources, cut as for `score`.
            tgt_lines: targets; a blank one of a blank source is the translator's own, with score 0.
        """
        src_ids = self._texts.encode_sources(src_lines)
        tgt_ids = self._texts.tgt.encode_batch(tgt_lines)
        results = [BLANK] * len(src_ids)
        wanted = [
            index
            for index, (src, tgt) in enumerate(zip(src_ids, tgt_ids, strict=True))
            if (src and src_lines[index].strip()) or (tgt and tgt_lines[index].strip())
        ]
        found = self.score_ids([src_ids[i] for i in wanted], [tgt_ids[i] for i in wanted])
        for index, pair in zip(wanted, found, strict=True):
            results[index] = pair
        return results

    def score(self, src_lines: Sequence[str], tgt_lines: Sequence[str]) -> list[PairScore]:
        """Returns the score of each pair of lines.

        Args:
            src_lines: sources, cut at `decoding.max_src_tokens`.
            tgt_lines: targets, cut where the model has no more positions, and far beyond what it
                translates or reads.
        """
        src_ids = self._texts.encode_sources(src_lines)
        tgt_ids = self._texts.tgt.encode_batch(tgt_lines)
        return self.score_ids(src_ids, tgt_ids)

    def score_ids(
        self, src_ids: Sequence[Sequence[int]], tgt_ids: Sequence[Sequence[int]]
    ) -> list[PairScore]:
        """Returns the score of each pair of id sequences, given without BOS and EOS."""
        src_limit, tgt_limit = self._limits()
        self.num_cut += sum(
            len(src) > src_limit or len(tgt) > tgt_limit
            for src, tgt in zip(src_ids, tgt_ids, strict=True)
        )
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
            pairs = [(sources[i], targets[i]) for i in chosen]
            found = memory.in_halves(pairs, self._score, self._arithmetic.device)
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

    def _limits(self) -> tuple[int, int]:
        """Returns the longest source and target, EOS not counted."""
        longest_src = self._decoding.max_src_tokens
        # Attention is quadratic in the length, so one endless line would take all memory.
        longest_tgt = max(longest_src, self._decoding.max_length)
        return (
            min(longest_src, self._model.max_src_positions or longest_src) - 1,
            min(longest_tgt, self._model.max_tgt_positions or longest_tgt) - 1,
        )

    @torch.inference_mode()
    def _score(self, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> list[PairScore]:
        sources, targets = zip(*pairs, strict=True)
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
        log_probs_BTV = selection.log_probabilities(logits_BTV)
        chosen_BT = log_probs_BTV.gather(2, tgt_BT.to(device).unsqueeze(2)).squeeze(2)
        chosen_BT = chosen_BT.masked_fill(~tgt_mask_BT.to(device), 0.0)
        sums, singles = chosen_BT.sum(1).tolist(), chosen_BT.tolist()
        return [
            PairScore(
                total,
                len(target),
                total / float(search_settings.penalty(len(target), self._decoding.length_penalty)),
                tuple(target.tolist()),
                tuple(single[: len(target)]),
            )
            for total, target, single in zip(sums, targets, singles, strict=True)
        ]
