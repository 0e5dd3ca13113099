"""Alignments by hand-computed numbers."""

import torch

from nmt.inference import alignments


def test_pieces_of_a_word_vote_together():
    # Source pieces a b+c, and the end of the source; target pieces x+y z.
    attention = torch.tensor(
        [[0.4, 0.3, 0.3, 0.0], [0.5, 0.1, 0.1, 0.3], [0.3, 0.2, 0.2, 0.3], [0.0, 0.0, 0.0, 1.0]]
    )
    # x prefers b+c (0.6), y prefers a (0.5): together a has 0.9 and b+c 0.8. z prefers b+c.
    assert alignments.align(attention, [0, 1, 1], [0, 0, 1]) == ((0, 0), (1, 1))
    assert alignments.best_sources(attention, [0, 1, 1]) == [1, 0, 1, 0]


def test_the_end_of_the_source_and_lone_spaces_are_no_words():
    attention = torch.tensor([[0.1, 0.2, 0.7], [0.0, 0.4, 0.6]])
    assert alignments.align(attention, [0, -1], [0, -1]) == ((0, 0),)
    assert alignments.align(attention, [], [0, 1]) == ()
    assert alignments.pharaoh(((0, 1), (2, 0))) == "0-1 2-0"
    assert alignments.pharaoh(()) == ""
