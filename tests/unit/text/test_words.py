"""Words among pieces."""

import pytest

from nmt.text import words as text_words


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        (["▁the", "▁tr", "ain", "."], [0, 1, 1, 1]),
        (["the", "▁tr"], [0, 1]),
        (["▁", "a", "b", "▁", "c"], [-1, 0, 0, -1, 1]),
        (["▁a", "▁", "▁b"], [0, -1, 1]),
        # A word outside the vocabulary in bytes, the sign for a space before it, and an umlaut.
        (
            ["▁a", "<0xE2>", "<0x96>", "<0x81>", "<0x7A>", "<0xC3>", "<0xBC>"],
            [0, -1, -1, -1, 1, 1, 1],
        ),
        (["▁a", " \u2047 ", "b", "▁c"], [0, 1, 2, 3]),
        (["▁a▁b", "c"], [0, 1]),
        ([], []),
    ],
)
def test_words_are_what_stands_between_spaces(pieces, words):
    assert text_words.words_of(pieces) == words
