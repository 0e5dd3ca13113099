"""Each kind of damage does what it says, as often as it is asked to."""

import dataclasses
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmt.text import noise, vocab

MASK = 4
# Three words of two pieces each, then single ones; a sentence ends at 14 and at 19.
PIECES = ("<unk>", "<s>", "</s>", "<pad>", "<mask>")
PIECES += ("\u2581w0", "x", "\u2581w1", "x", "\u2581w2", "x")
PIECES += ("\u2581a", "b", "\u2581c", ".", "\u2581d", "\u2581e", "!", "\u2581f", "\u3002", "g")
VOCAB = vocab.Vocab(PIECES, unk_id=0, bos_id=1, eos_id=2, pad_id=3)
WORDS = [[5, 6], [7, 8], [9, 10], [11, 12], [13, 14], [15], [16, 17], [18, 19, 20]]
TEXT = [token for word in WORDS for token in word]
LONG = [15] * 1000  # single-piece words


@dataclasses.dataclass(frozen=True)
class Rates:
    permute_rate: float = 0.0
    rotate_rate: float = 0.0
    infill_rate: float = 0.0
    span_length: float = 3.0
    mask_rate: float = 0.0
    delete_rate: float = 0.0
    unit: str = "words"


def damaged(ids: list[int], seed: int = 1, **rates: float | str) -> list[int]:
    machine = noise.Noise(VOCAB, MASK, Rates(**rates))  # type: ignore[arg-type]
    return machine.apply(ids, random.Random(seed))


def test_masking_puts_one_mask_for_each_word_that_it_takes():
    found = damaged(LONG, mask_rate=0.3)
    assert len(found) == 1000
    assert 250 < found.count(MASK) < 350
    assert set(damaged(TEXT, mask_rate=0.99)) == {MASK}
    assert len(damaged(TEXT, mask_rate=0.99)) == len(WORDS)
    assert len(damaged(TEXT, mask_rate=0.99, unit="pieces")) == len(TEXT)


def test_deletion_leaves_words_out_and_says_nothing():
    numbered = list(range(5, 21))
    found = damaged(LONG, delete_rate=0.3)
    assert MASK not in found
    assert 650 < len(found) < 750
    kept = damaged(numbered, delete_rate=0.5, unit="pieces")
    assert kept == sorted(kept) and len(kept) < len(numbered)
    lengths = set()
    for seed in range(50):
        whole = damaged(TEXT, seed, delete_rate=0.4)
        rest = [word for word in WORDS if word[0] in whole]
        assert whole == [token for word in rest for token in word], "words go as a whole"
        lengths.add(len(rest))
    assert len(lengths) > 3
    for seed in range(20):
        assert damaged(TEXT, seed, delete_rate=0.99), "something is left"


def test_infilling_covers_the_share_with_poisson_spans_of_one_mask_each():
    spans = []
    for seed in range(200):
        found = damaged(LONG, seed, infill_rate=0.35)
        covered = 1000 - sum(token != MASK for token in found)
        assert covered == 350
        spans.append(found.count(MASK))
    # A mask covers 3 words in the mean, counting those that cover none.
    assert 350 / statistics.mean(spans) == pytest.approx(3.0, rel=0.05)


def test_span_lengths_have_a_poisson_distribution():
    generator = random.Random(1)
    draws = [noise._poisson(3.5, generator) for _ in range(20_000)]
    assert statistics.mean(draws) == pytest.approx(3.5, rel=0.02)
    assert statistics.variance(draws) == pytest.approx(3.5, rel=0.05)
    assert draws.count(0) / len(draws) == pytest.approx(0.0302, rel=0.15)


def test_what_infilling_leaves_keeps_its_order_and_masks_stand_for_the_rest():
    numbered = list(range(5, 21))
    for seed in range(50):
        found = damaged(numbered, seed, infill_rate=0.5, unit="pieces", span_length=2.0)
        rest = [token for token in found if token != MASK]
        assert rest == sorted(rest) and len(rest) == 8
        gaps = zip([3, *rest], [*rest, 21], strict=True)
        # Between two words that were neighbours there may be a mask; where some are missing, there is.
        positions = [3, *found, 21]
        for left, right in gaps:
            between = positions[positions.index(left) + 1 :]
            if right - max(left, 4) > 1:
                assert between[0] == MASK


def test_a_span_of_no_words_is_a_mask_more():
    counts = [
        damaged(LONG, seed, infill_rate=0.35, span_length=1.0).count(MASK) for seed in range(99)
    ]
    # Spans of 1 word in the mean, of which exp(-1) have none: as many masks as words are covered.
    assert statistics.mean(counts) == pytest.approx(350, rel=0.03)


def test_short_texts_are_damaged_in_the_mean_as_much_as_long_ones():
    taken = [
        3 - sum(token != MASK for token in damaged([5, 7, 9], seed, infill_rate=0.5))
        for seed in range(2000)
    ]
    assert statistics.mean(taken) == pytest.approx(1.5, rel=0.05)


def test_rotation_begins_at_a_word_and_goes_around():
    found = {tuple(damaged(TEXT, seed, rotate_rate=1.0)) for seed in range(200)}
    begins = [sum(map(len, WORDS[:number])) for number in range(len(WORDS))]
    assert found == {tuple(TEXT[begin:] + TEXT[:begin]) for begin in begins}


def test_permutation_puts_whole_sentences_in_every_order():
    first, second, rest = TEXT[:10], TEXT[10:13], TEXT[13:]
    assert PIECES[first[-1]] == "." and PIECES[second[-1]] == "!"
    third, fourth = rest[:2], rest[2:]
    assert PIECES[third[-1]] == "\u3002", "ends without a space, too"
    found = {tuple(damaged(TEXT, seed, permute_rate=1.0, unit="pieces")) for seed in range(600)}
    assert len(found) == 24
    for text in found:
        shown = str(list(text))[1:-1]
        for sentence in (first, second, third, fourth):
            assert str(sentence)[1:-1] in shown
    assert damaged([5, 6, 7], permute_rate=1.0) == [5, 6, 7], "one sentence has one order"


@pytest.mark.parametrize("unit", ["words", "pieces"])
def test_sentences_without_spaces_change_places(unit):
    # NFKC has made wide marks narrow ones; a bracket behind them belongs to the sentence.
    pieces = ("<unk>", "<s>", "</s>", "<pad>", "<mask>")
    pieces += ("\u2581\u4eca\u65e5", "!", "\u660e\u65e5", "\u3002", "\u300d", "\u306f", "o")
    known = vocab.Vocab(pieces, unk_id=0, bos_id=1, eos_id=2, pad_id=3)

    def orders(*ids: int) -> set[tuple[int, ...]]:
        machine = noise.Noise(known, MASK, Rates(permute_rate=1.0, unit=unit))  # type: ignore[arg-type]
        return {tuple(machine.apply(ids, random.Random(seed))) for seed in range(40)}

    assert orders(5, 8, 7, 8) == {(5, 8, 7, 8), (7, 8, 5, 8)}
    assert orders(5, 6, 7, 8) == {(5, 6, 7, 8), (7, 8, 5, 6)}
    assert orders(5, 8, 9, 7) == {(5, 8, 9, 7)}, "quoted, it goes on"
    assert orders(11, 6, 11) == {(11, 6, 11)}, "no end within a word"


def test_a_rate_of_texts_is_met():
    turned = [damaged(TEXT, seed, rotate_rate=0.25) != TEXT for seed in range(2000)]
    assert statistics.mean(turned) == pytest.approx(0.25 * 7 / 8, rel=0.15)


@settings(max_examples=50, deadline=None)
@given(
    ids=st.lists(st.integers(5, len(PIECES) - 1), min_size=1, max_size=30),
    seed=st.integers(0, 100),
    unit=st.sampled_from(["words", "pieces"]),
)
def test_all_kinds_together_keep_something_and_depend_on_the_seed_alone(ids, seed, unit):
    rates = dict.fromkeys(
        ("permute_rate", "rotate_rate", "infill_rate", "mask_rate", "delete_rate"), 0.4
    )
    found = damaged(ids, seed, unit=unit, **rates)
    assert found
    assert set(found) <= {*ids, MASK}
    assert found == damaged(ids, seed, unit=unit, **rates)
