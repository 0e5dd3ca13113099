"""Which target tokens a source sentence may be translated with: learnt from parallel text.

For each source token the targets that translate it best, by the lexical probabilities of IBM model 1
(Brown et al. 1993, section 4.1), and the most frequent targets for all (Jean et al. 2015, section 3.2).
"""

import dataclasses
from collections.abc import Iterator, Sequence

import torch

from nmt.text import vocab as vocabularies

# Source and target ids of pairs, without BOS and EOS.
IdPairs = Sequence[tuple[Sequence[int], Sequence[int]]]

NUM_ALWAYS = 500  # most frequent targets, allowed for every sentence
NUM_CANDIDATES = 50  # targets of each source token
ITERATIONS = 4  # of model 1; the order of the best changes little after that
CHUNK_PAIRS = 2048
# Longer pairs say little about which word translates which, and cost the product of their lengths.
MAX_TOKENS = 60


@dataclasses.dataclass(frozen=True)
class Shortlist:
    """What may be used.

    Attributes:
        always: int64 targets that any sentence may use; the first ids of the vocabulary up to the last
            special one, and the most frequent ones.
        candidates: int64 [source tokens, `NUM_CANDIDATES`]; filled up with ids of `always`.
        num_targets: size of the target vocabulary.
    """

    always: torch.Tensor
    candidates: torch.Tensor
    num_targets: int

    def allowed(self, src_BS: torch.Tensor) -> torch.Tensor:
        """Returns what each sentence may use, bool [B, V].

        Args:
            src_BS: int64 source ids; PAD and EOS have no candidates of their own.
        """
        allowed_BV = torch.zeros(len(src_BS), self.num_targets, dtype=torch.bool)
        allowed_BV[:, self.always] = True
        return allowed_BV.scatter_(1, self.candidates[src_BS].flatten(1), True)

    def coverage(self, pairs: IdPairs) -> float:
        """Returns the share of target tokens that can be produced, EOS not counted."""
        num_found = num_tokens = 0
        for src, tgt in pairs:
            if src:
                allowed_V = self.allowed(torch.tensor([list(src)]))[0]
                num_found += int(allowed_V[torch.tensor(list(tgt), dtype=torch.int64)].sum())
                num_tokens += len(tgt)
        return num_found / max(num_tokens, 1)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Returns what is stored."""
        return {
            "always": self.always.int(),
            "candidates": self.candidates.int(),
            "num_targets": torch.tensor([self.num_targets]),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, torch.Tensor]) -> "Shortlist":
        """Returns the shortlist that was stored."""
        return cls(
            tensors["always"].long(), tensors["candidates"].long(), int(tensors["num_targets"])
        )


def num_special(tgt: vocabularies.Vocab) -> int:
    """Returns how many of the first ids have to be allowed, so that the special ones are among them."""
    return max(tgt.unk_id, tgt.bos_id, tgt.eos_id, tgt.pad_id) + 1


def learn(pairs: IdPairs, src: vocabularies.Vocab, tgt: vocabularies.Vocab) -> Shortlist:
    """Returns the shortlist of a corpus.

    Args:
        pairs: its ids; empty sides and pairs above `MAX_TOKENS` are left out.
        src: source vocabulary.
        tgt: target vocabulary.
    """
    kept = [(s, t) for s, t in pairs if 0 < len(s) <= MAX_TOKENS and 0 < len(t) <= MAX_TOKENS]
    counts_V = torch.zeros(len(tgt), dtype=torch.int64)
    for _, ids in kept:
        counts_V.index_add_(0, torch.tensor(ids), torch.ones(len(ids), dtype=torch.int64))
    special = num_special(tgt)
    frequent = counts_V.topk(min(NUM_ALWAYS, len(tgt))).indices
    always = _unique(torch.cat([torch.arange(special), frequent]))
    keys, probabilities = _model_1(kept, len(tgt))
    sources, targets = keys // len(tgt), keys % len(tgt)
    candidates = torch.full((len(src), NUM_CANDIDATES), tgt.eos_id, dtype=torch.int64)
    # By source, the most probable first: two stable sorts. Then the place within its source.
    order = probabilities.argsort(descending=True, stable=True)
    order = order[sources[order].argsort(stable=True)]
    sources, targets = sources[order], targets[order]
    begins = torch.searchsorted(sources, sources, right=False)
    ranks = torch.arange(len(sources)) - begins
    is_best = ranks < NUM_CANDIDATES
    candidates[sources[is_best], ranks[is_best]] = targets[is_best]
    return Shortlist(always, candidates, len(tgt))


def _model_1(pairs: IdPairs, num_targets: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns ascending keys source * V + target of pairs that meet, and p(target | source)."""
    if not pairs:
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0)

    def chunks() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        # Made anew in each iteration: all together they would take gigabytes.
        for begin in range(0, len(pairs), CHUNK_PAIRS):
            yield _meetings(pairs[begin : begin + CHUNK_PAIRS], num_targets)

    keys = _unique(torch.cat([_unique(chunk) for chunk, _ in chunks()]))
    sources = keys // num_targets
    num_sources = int(sources.max()) + 1
    probabilities = torch.ones(len(keys))
    for _ in range(ITERATIONS):
        counts = torch.zeros(len(keys))
        for meeting_keys, target_places in chunks():
            places = torch.searchsorted(keys, meeting_keys)
            found = probabilities[places]
            # Each target token is shared among the source tokens of its sentence.
            totals = torch.zeros(int(target_places[-1]) + 1).index_add_(0, target_places, found)
            counts.index_add_(0, places, found / totals[target_places])
        sums = torch.zeros(num_sources).index_add_(0, sources, counts)
        probabilities = counts / sums[sources]
    return keys, probabilities


def _meetings(pairs: IdPairs, num_targets: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the keys of all source and target tokens that meet, and the target's place for each."""
    keys, places = [], []
    begin = 0
    for src, tgt in pairs:
        source, target = torch.tensor(list(src)), torch.tensor(list(tgt))
        keys.append((source.unsqueeze(0) * num_targets + target.unsqueeze(1)).flatten())
        places.append(torch.arange(begin, begin + len(tgt)).repeat_interleave(len(src)))
        begin += len(tgt)
    return torch.cat(keys), torch.cat(places)


def _unique(numbers: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = torch.unique(numbers)
    return found
