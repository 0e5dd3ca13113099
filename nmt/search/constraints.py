"""Phrases that must appear: lexically constrained beam search with dynamic beam allocation.

Source: Post and Vilar 2018, in the vectorised manner of Hu et al. 2019. Hypotheses are sorted into
banks by how many constraint tokens they have produced, and the K places of the beam are dealt to the
banks in turn, so that hypotheses that are on their way to a constraint need not compete with those
that ignore it. Deviations: each phrase is followed by an automaton of its own (Knuth et al. 1977), so
that a phrase that breaks off falls back to the longest beginning that still stands, and phrases may
overlap in the output; the bank counts the tokens of complete phrases and of the one that is furthest.

That some hypothesis meets all constraints is certain as long as the longest length has room for them
and no rule forbids their tokens: among the candidates there is always the one that goes on with the
furthest phrase of the foremost hypothesis, which is a bank further, and the foremost bank is dealt to
first.
"""

import dataclasses
from collections.abc import Sequence

import torch

from nmt.search import hosting, picking, selection
from nmt.search import settings as search_settings

NO_TOKEN = -1  # fills up phrases


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far each hypothesis is with each phrase. P phrases, L the longest, U = L + 1.

    Attributes:
        phrases_BPL: the phrases, `NO_TOKEN` behind them.
        lengths_BP: their lengths; 0 where a sentence has fewer.
        moves_BPUU: tokens matched after a token, by tokens matched before, and by where the phrase
            has the token first (L for other tokens).
        after_BP: an equal phrase that has to be complete first, or the phrase itself for none.
        is_closed_BP: whether the word has to end with the phrase.
        continuing_BX: ids that go on with a word; the same for every sentence.
        goes_on_BPU: whether the token after so many goes on with a word.
        matched_BKP: tokens matched so far; the length once complete, whatever follows.
        must_close_BK: whether the last token has completed a phrase whose word has to end.
    """

    phrases_BPL: torch.Tensor
    lengths_BP: torch.Tensor
    moves_BPUU: torch.Tensor
    after_BP: torch.Tensor
    is_closed_BP: torch.Tensor
    continuing_BX: torch.Tensor
    goes_on_BPU: torch.Tensor
    matched_BKP: torch.Tensor
    must_close_BK: torch.Tensor

    def keep(self, chosen: torch.Tensor) -> "Progress":
        """Returns that of these sentences only."""
        return Progress(
            *(
                getattr(self, field.name).index_select(0, chosen)
                for field in dataclasses.fields(self)
            )
        )

    def is_met(self) -> torch.Tensor:
        """Returns whether each hypothesis has all its phrases, bool [B, K]."""
        return (self.matched_BKP == self.lengths_BP[:, None]).all(2)

    def wanted(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the tokens [B, K, P] that go on with each phrase, and where there is one."""
        longest = self.phrases_BPL.shape[2]
        places_BKP1 = self.matched_BKP.clamp(max=longest - 1).unsqueeze(3)
        phrases_BKPL = self.phrases_BPL[:, None].expand(*self.matched_BKP.shape, -1)
        tokens_BKP = phrases_BKPL.gather(3, places_BKP1).squeeze(3)
        is_wanted_BKP = (self.matched_BKP < self.lengths_BP[:, None]) & self._may_start(
            self.matched_BKP
        )
        return tokens_BKP.clamp(min=0), is_wanted_BKP

    def moved(
        self, parents_BC: torch.Tensor, tokens_BC: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the tokens matched [B, C, P] after hypotheses take tokens, and `must_close_BC`."""
        num_phrases, width = self.phrases_BPL.shape[1:]
        parents_BCP = parents_BC.unsqueeze(2).expand(-1, -1, num_phrases)
        matched_BCP = self.matched_BKP.gather(1, parents_BCP)
        is_here_BCPL = self.phrases_BPL[:, None] == tokens_BC[:, :, None, None]
        first_BCP = torch.where(is_here_BCPL.any(3), is_here_BCPL.int().argmax(3), width)
        # One number for the two last axes: matched before, and which token comes.
        move_BCP = matched_BCP * (width + 1) + first_BCP
        moves_BPX = self.moves_BPUU.flatten(2)
        next_BCP = moves_BPX.gather(2, move_BCP.transpose(1, 2)).transpose(1, 2)
        next_BCP = next_BCP.masked_fill(~self._may_start(matched_BCP), 0)
        is_complete_BCP = matched_BCP == self.lengths_BP[:, None]
        is_new_BCP = (next_BCP == self.lengths_BP[:, None]) & ~is_complete_BCP
        goes_on_BCP = self.goes_on_BPU.gather(2, next_BCP.transpose(1, 2)).transpose(1, 2)
        # A phrase whose word has to end here yields to one that is further already and goes on with the
        # word ("bank" to "the banks"): breaking that one off would lose tokens.
        is_on_BCP = goes_on_BCP & ~is_complete_BCP & (next_BCP == matched_BCP + 1)
        furthest_BC1 = matched_BCP.masked_fill(~is_on_BCP, 0).amax(2, keepdim=True)
        closes_BCP = is_new_BCP & self.is_closed_BP[:, None]
        yields_BCP = closes_BCP & (self.lengths_BP[:, None] <= furthest_BC1)
        must_close_BC = (closes_BCP & ~yields_BCP).any(2)
        # Where the word ends in any case, all are complete that end with it, and what would go on is
        # broken off.
        is_lost_BCP = torch.where(must_close_BC.unsqueeze(2), goes_on_BCP, yields_BCP)
        next_BCP = next_BCP.masked_fill(is_lost_BCP, 0)
        return torch.where(is_complete_BCP, matched_BCP, next_BCP), must_close_BC

    def close(self, scores_BKV: torch.Tensor) -> None:
        """Forbids tokens that go on with a word that has to end, in place."""
        if self.continuing_BX.shape[1]:
            is_continuing_V = torch.zeros_like(scores_BKV[0, 0], dtype=torch.bool)
            is_continuing_V = is_continuing_V.index_fill(0, self.continuing_BX[0], True)
            scores_BKV.masked_fill_(self.must_close_BK.unsqueeze(2) & is_continuing_V, -torch.inf)

    def banks(self, matched_BCP: torch.Tensor) -> torch.Tensor:
        """Returns the bank [B, C] of each candidate: tokens of complete phrases and the furthest."""
        is_complete_BCP = matched_BCP == self.lengths_BP[:, None]
        complete_BC = matched_BCP.masked_fill(~is_complete_BCP, 0).sum(2)
        return complete_BC + matched_BCP.masked_fill(is_complete_BCP, 0).amax(2)

    def _may_start(self, matched_BCP: torch.Tensor) -> torch.Tensor:
        """Returns whether the equal phrase before each one is complete, bool [B, C, P]."""
        after_BCP = self.after_BP[:, None].expand_as(matched_BCP)
        is_complete_BCP = matched_BCP == self.lengths_BP[:, None]
        num_phrases = matched_BCP.shape[2]
        is_first_BP = self.after_BP == torch.arange(num_phrases, device=self.after_BP.device)
        return is_complete_BCP.gather(2, after_BCP) | is_first_BP[:, None]


def start(
    requests: Sequence[search_settings.Request],
    num_hypotheses: int,
    continuing: frozenset[int],
    device: torch.device,
) -> Progress | None:
    """Returns the progress before the first token, or None if no sentence has constraints.

    Args:
        requests: one for each sentence.
        num_hypotheses: K.
        continuing: ids that go on with the word before them.
        device: where to.
    """
    phrases = [request.constraints for request in requests]
    if not any(phrases):
        return None
    most = max(len(own) for own in phrases)
    width = max(len(phrase) for own in phrases for phrase in own)
    filled = [[*own, *[()] * (most - len(own))] for own in phrases]
    tokens = [[[*phrase, *[NO_TOKEN] * (width - len(phrase))] for phrase in own] for own in filled]
    matched = [[[0] * most] * num_hypotheses for _ in phrases]
    # Which of them have to end a word, and where they go on with one.
    closed = [[*own, *[False] * most][:most] for own in (request.closed for request in requests)]
    goes_on = [
        [
            [token in continuing for token in phrase] + [False] * (width + 1 - len(phrase))
            for phrase in own
        ]
        for own in filled
    ]
    is_any_closed = any(any(own) for own in closed)
    listed = [sorted(continuing) if is_any_closed else []] * len(phrases)
    return Progress(
        hosting.to_device(tokens, device),
        hosting.to_device([[len(phrase) for phrase in own] for own in filled], device),
        hosting.to_device([[_moves(phrase, width) for phrase in own] for own in filled], device),
        hosting.to_device([_after(own) for own in filled], device),
        hosting.to_device(closed, device) > 0,
        hosting.to_device(listed, device),
        hosting.to_device(goes_on, device) > 0,
        hosting.to_device(matched, device),
        hosting.to_device([[0] * num_hypotheses for _ in phrases], device) > 0,
    )


def num_entries(requests: Sequence[search_settings.Request]) -> int:
    """Returns how many numbers the tables of a batch have, and a step over all its candidates."""
    phrases = [request.constraints for request in requests]
    most = max(map(len, phrases))
    width = max((len(phrase) for own in phrases for phrase in own), default=0)
    num_candidates = requests[0].settings.num_hypotheses * (3 + most)
    return len(phrases) * most * width * max(width, num_candidates)


def num_missing(request: search_settings.Request) -> int:
    """Returns how many tokens the constraints of a sentence take at most behind its prefix."""
    missing = 0
    counted: dict[search_settings.Phrase, int] = {}
    for phrase in request.constraints:
        counted[phrase] = counted.get(phrase, 0) + 1
        if _occurrences(request.prefix, phrase) < counted[phrase]:
            missing += len(phrase)
    return missing


def _occurrences(tokens: search_settings.Phrase, phrase: search_settings.Phrase) -> int:
    count = place = 0
    while place + len(phrase) <= len(tokens):
        is_here = tokens[place : place + len(phrase)] == phrase
        count += is_here
        place += len(phrase) if is_here else 1
    return count


def pick(scores_BKV: torch.Tensor, progress: Progress, eos: int) -> tuple[picking.Picked, Progress]:
    """Returns what ends and what goes on, and how far the latter are.

    Candidates are the 2K best continuations, the best of each hypothesis, and those that go on with
    a phrase. K of them are chosen, of which those with EOS end; and K of the ones without it go on.

    Args:
        scores_BKV: sums of log-probabilities of each continuation, changed in place.
        progress: of the open hypotheses.
        eos: id of EOS.
    """
    size = scores_BKV.shape[1]
    scores_BKV[:, :, eos] = scores_BKV[:, :, eos].masked_fill(~progress.is_met(), float("-inf"))
    progress.close(scores_BKV)
    scores_BC, parents_BC, tokens_BC = _candidates(scores_BKV, progress)
    matched_BCP, must_close_BC = progress.moved(parents_BC, tokens_BC)
    banks_BC = progress.banks(matched_BCP)
    ends_BC = tokens_BC == eos
    best_BK = _deal(scores_BC, banks_BC, size)
    ended_scores_BC = scores_BC.masked_fill(~ends_BC, float("-inf"))
    open_scores_BC = scores_BC.masked_fill(ends_BC, float("-inf"))
    open_BK = _deal(open_scores_BC, banks_BC, size)
    picked = picking.Picked(
        ended_scores_BC.gather(1, best_BK),
        parents_BC.gather(1, best_BK),
        open_scores_BC.gather(1, open_BK),
        parents_BC.gather(1, open_BK),
        tokens_BC.gather(1, open_BK),
    )
    places_BKP = open_BK.unsqueeze(2).expand(-1, -1, matched_BCP.shape[2])
    return picked, dataclasses.replace(
        progress,
        matched_BKP=matched_BCP.gather(1, places_BKP),
        must_close_BK=must_close_BC.gather(1, open_BK),
    )


def _candidates(
    scores_BKV: torch.Tensor, progress: Progress
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns scores, parents and tokens [B, C] of all candidates; duplicates have -inf."""
    num_sentences, size, num_tokens = scores_BKV.shape
    best_scores_BC, best_parents_BC, best_tokens_BC = selection.best(scores_BKV, 2 * size)
    own_scores_BK, own_tokens_BK = scores_BKV.max(dim=2)
    wanted_tokens_BKP, is_wanted_BKP = progress.wanted()
    wanted_scores_BKP = scores_BKV.gather(2, wanted_tokens_BKP)
    wanted_scores_BKP = wanted_scores_BKP.masked_fill(~is_wanted_BKP, float("-inf"))
    own_BK = torch.arange(size, device=scores_BKV.device).expand(num_sentences, -1)
    own_BKP = own_BK.unsqueeze(2).expand_as(wanted_tokens_BKP)
    scores_BC = torch.cat([best_scores_BC, own_scores_BK, wanted_scores_BKP.flatten(1)], dim=1)
    parents_BC = torch.cat([best_parents_BC, own_BK, own_BKP.flatten(1)], dim=1)
    tokens_BC = torch.cat([best_tokens_BC, own_tokens_BK, wanted_tokens_BKP.flatten(1)], dim=1)
    # Of equal ones the best stays; an unwanted one is worth nothing, so sort by score before.
    scores_BC, order_BC = scores_BC.sort(dim=1, descending=True, stable=True)
    parents_BC, tokens_BC = parents_BC.gather(1, order_BC), tokens_BC.gather(1, order_BC)
    keys_BC, by_key_BC = (parents_BC * num_tokens + tokens_BC).sort(dim=1, stable=True)
    is_again_BC = torch.zeros_like(keys_BC, dtype=torch.bool)
    is_again_BC[:, 1:] = keys_BC[:, 1:] == keys_BC[:, :-1]
    is_double_BC = torch.zeros_like(is_again_BC).scatter(1, by_key_BC, is_again_BC)
    return scores_BC.masked_fill(is_double_BC, float("-inf")), parents_BC, tokens_BC


def _deal(scores_BC: torch.Tensor, banks_BC: torch.Tensor, count: int) -> torch.Tensor:
    """Returns the places [B, count] of candidates, dealt to the banks in turn.

    First the best of each bank, the foremost bank first, then the second best of each, and so on:
    what a bank cannot use goes to the others.

    Args:
        scores_BC: sorted downwards, but that any of them may be -inf, which are chosen last.
        banks_BC: the bank of each.
        count: at most C.
    """
    is_valid_BC = scores_BC > float("-inf")
    # Candidates by bank, the foremost first, and within it as they stand, which is by score.
    far = banks_BC.shape[1]
    groups_BC = torch.where(is_valid_BC, banks_BC, -1)
    sorted_BC, order_BC = groups_BC.sort(dim=1, descending=True, stable=True)
    places_BC = torch.arange(far, device=banks_BC.device).expand_as(banks_BC)
    is_first_BC = torch.ones_like(is_valid_BC)
    is_first_BC[:, 1:] = sorted_BC[:, 1:] != sorted_BC[:, :-1]
    # The place where each bank begins is the largest beginning so far.
    begins_BC = places_BC.masked_fill(~is_first_BC, 0).cummax(dim=1).values
    ranks_BC = torch.where(sorted_BC >= 0, places_BC - begins_BC, far)
    dealt_BC = ranks_BC.sort(dim=1, stable=True).indices[:, :count]
    return order_BC.gather(1, dealt_BC)


def _moves(phrase: search_settings.Phrase, width: int) -> list[list[int]]:
    """Returns how many tokens are matched after each token; see `Progress.moves_BPUU`."""
    moves = [[0] * (width + 1) for _ in range(width + 1)]
    first = {token: place for place, token in reversed([*enumerate(phrase)])}
    # What still stands when a beginning breaks off moves on as that shorter beginning does.
    fallback = 0
    for matched, token in enumerate(phrase):
        for place in first.values():
            moves[matched][place] = moves[fallback][place] if matched else 0
        moves[matched][first[token]] = matched + 1
        if matched:
            fallback = moves[fallback][first[token]]
    return moves


def _after(phrases: Sequence[search_settings.Phrase]) -> list[int]:
    """Returns for each phrase the nearest equal one before it, or itself."""
    last: dict[search_settings.Phrase, int] = {}
    after = []
    for index, phrase in enumerate(phrases):
        after.append(last.get(phrase, index))
        last[phrase] = index
    return after
