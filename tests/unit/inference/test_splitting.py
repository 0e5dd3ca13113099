"""Parts fit, lose nothing, and end where sentences do."""

import random

import pytest

from nmt.inference import splitting


def words(texts: list[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def characters(texts: list[str]) -> list[int]:
    return [len(text) for text in texts]


@pytest.mark.parametrize(
    ("line", "size", "parts"),
    [
        ("a b", 2, ["a b"]),
        ("  a b ", 1, ["a", "b"]),
        ("First one. Second one! And the third", 4, ["First one. Second one!", "And the third"]),
        ("First one. Second one! And the third", 3, ["First one.", "Second one!", "And the third"]),
        (
            'He said "No." (Or not.) She left … then',
            4,
            ['He said "No."', "(Or not.)", "She left … then"],
        ),
        ("He said. Or not … then all of it", 5, ["He said. Or not …", "then all of it"]),
        ("a b c d e f. g", 3, ["a b c", "d e f.", "g"]),
        ("costs 3.50 now or 4.50 then", 3, ["costs 3.50 now", "or 4.50 then"]),
    ],
)
def test_parts_end_at_sentences_or_else_at_spaces(line, size, parts):
    assert splitting.split(line, size, words) == parts


def test_marks_of_chinese_and_japanese_need_no_space():
    line = "これは本です。「はい。」それは何ですか？本です。"
    parts = splitting.split(line, 12, characters)
    assert parts == ["これは本です。「はい。」", "それは何ですか？本です。"]


def test_a_word_that_is_too_long_is_cut_anywhere():
    parts = splitting.split("ab " + "x" * 50 + " cd", 10, characters)
    assert "".join(parts).replace(" ", "") == "ab" + "x" * 50 + "cd"
    assert max(characters(parts)) <= 10
    assert splitting.split("é", 1, lambda texts: [3 for _ in texts]) == ["é"], "it cannot be helped"


def test_nothing_is_lost_and_everything_fits_and_parts_are_as_long_as_can_be():
    generator = random.Random(0)
    pieces = ["a", "bc", "d.", "e!", "(f)", "g.)", "ｈ。", "i…", "jjjjjjjj"]
    for _ in range(200):
        line = " ".join(generator.choices(pieces, k=generator.randint(1, 40)))
        size = generator.randint(8, 20)
        parts = splitting.split(line, size, characters)
        assert "".join(parts).replace(" ", "") == line.replace(" ", "")
        assert all(0 < len(part) <= size and part == part.strip() for part in parts)
        assert len(parts) <= 4 * (len(line) // size + 1)


def test_the_whole_is_counted_where_it_has_more_tokens_than_its_units():
    def count(texts: list[str]) -> list[int]:
        return [len(text.split()) + text.count(" ") for text in texts]

    parts = splitting.split("a b c d e", 3, count)
    assert parts == ["a b", "c d", "e"]


def test_long_lines_take_time_in_proportion():
    calls = []

    def count(texts: list[str]) -> list[int]:
        calls.extend(texts)
        return [len(text) + 1 for text in texts]  # as a tokenizer does: a sign for each space

    splitting.split("word " * 20_000, 100, count)
    assert sum(map(len, calls)) < 5 * 100_000
    calls.clear()
    splitting.split("x" * 100_000, 100, count)
    assert sum(map(len, calls)) < 20 * 100_000
