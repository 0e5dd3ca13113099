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
from nmt.search import coverage, hosting, selection
from nmt.search import settings as search_settings


@dataclasses.dataclass(frozen=True)
class PairScore:
    """How probable a target is, given its source.

    Attributes:
        log_probability: sum over the target tokens, EOS included.
        num_tokens: those tokens.
        score: as search reports it: `log_probability`, bent by a repetition penalty, over the length
            penalty, and the penalty of coverage.
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
        src_mask_BS, tgt_BT, tgt_mask_BT = (
            tensor.to(device) for tensor in (src_mask_BS, tgt_BT, tgt_mask_BT)
        )
        decoding = self._decoding
        has_coverage = bool(decoding.coverage_penalty) and self._model.attends
        with self._arithmetic.autocast():
            states_BTE, attention_BTS = self._model(
                src_BS.to(device),
                src_mask_BS,
                tgt_in_BT.to(device),
                with_attention=has_coverage,
            )
            logits_BTV = self._model.logits(states_BTE)
        log_probs_BTV = selection.log_probabilities(logits_BTV)
        chosen_BT = log_probs_BTV.gather(2, tgt_BT.unsqueeze(2)).squeeze(2)
        chosen_BT = chosen_BT.masked_fill(~tgt_mask_BT, 0.0)
        bent_BT = chosen_BT
        if decoding.repetition_penalty != 1.0:
            factor = decoding.repetition_penalty
            bent_BT = torch.where(_has_come(tgt_BT), chosen_BT * factor, chosen_BT)
        extras = [0.0] * len(pairs)
        if has_coverage:
            assert attention_BTS is not None, "the model attends"
            wide = torch.promote_types(attention_BTS.dtype, torch.float32)
            attention_BTS = attention_BTS.to(wide) * tgt_mask_BT.unsqueeze(2)
            covered = coverage.Coverage(
                hosting.floats_to_device([decoding.coverage_penalty] * len(pairs), device),
                src_mask_BS,
                attention_BTS.sum(1, keepdim=True),
            )
            extras = covered.penalties().squeeze(1).tolist()
        sums, singles = chosen_BT.sum(1).tolist(), chosen_BT.tolist()
        return [
            PairScore(
                total,
                len(target),
                bent / float(search_settings.penalty(len(target), decoding.length_penalty)) + extra,
                tuple(target.tolist()),
                tuple(single[: len(target)]),
            )
            for total, bent, extra, target, single in zip(
                sums, bent_BT.sum(1).tolist(), extras, targets, singles, strict=True
            )
        ]


def _has_come(tokens_BT: torch.Tensor) -> torch.Tensor:
    """Returns whether each token stands before its place already, bool [B, T]."""
    length = tokens_BT.shape[1]
    is_same_BTT = tokens_BT.unsqueeze(2) == tokens_BT.unsqueeze(1)
    is_before_TT = tokens_BT.new_ones((length, length), dtype=torch.bool).tril(-1)
    return (is_same_BTT & is_before_TT).any(2)
