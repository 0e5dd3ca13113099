"""The scripts of the tasks: splits, alternatives, tags, error rates."""

import gzip

import get_cmudict
import get_multi30k
import make_docstring_corpus
import make_number_corpus
import pytest
import score_g2p

ENTRIES = [
    ("tomato", ["T", "AH0", "M", "EY1", "T", "OW2"]),
    ("tomato", ["T", "AH0", "M", "AA1", "T", "OW2"]),
    ("tomato", ["T", "AH1", "M", "EY1", "T", "OW2"]),
    ("o'clock", ["AH0", "K", "L", "AA1", "K"]),
    ("u.s.", ["Y", "UW1"]),
    ("co-op", ["K", "OW1"]),
]


def test_pronunciations_are_collected_once_each_without_stress():
    found = get_cmudict.collect(ENTRIES, stress=False)
    assert found == {
        "tomato": ["T AH M EY T OW", "T AH M AA T OW"],
        "o'clock": ["AH K L AA K"],
    }
    assert len(get_cmudict.collect(ENTRIES, stress=True)["tomato"]) == 3


def test_a_tenth_of_the_words_is_held_out_with_all_their_pronunciations():
    words = {
        f"{a}{b}{c}{d}": ["A"]
        for a in "abcdefgh"
        for b in "ijklmnop"
        for c in "qrstuvwx"
        for d in "yzab"
    }
    for word in sorted(words)[::3]:
        words[word] = ["A", "B"]
    files = get_cmudict.files_of(words)
    test, train = files["test.words"], files["train.words"]
    assert len(test) / len(words) == pytest.approx(0.1, abs=0.02)
    assert not set(test) & set(train) and not set(test) & set(files["valid.words"])
    assert set(test) | set(train) | set(files["valid.words"]) == set(words)
    assert len(train) > len(set(train)), "training has a pair for each pronunciation"
    assert len(test) == len(set(test)) == len(files["test.1.phones"]) == len(files["test.2.phones"])
    for word, first, second in zip(
        test, files["test.1.phones"], files["test.2.phones"], strict=True
    ):
        assert [first, second] == [words[word][0], words[word][-1]]
    # By the word alone, the same everywhere.
    assert get_cmudict.split_of("phone") == "test"
    assert {get_cmudict.split_of(word) for word in ("tomato", "letter", "knight")} == {"train"}


def test_an_output_is_right_if_it_equals_any_pronunciation():
    hypotheses = ["T AH M AA T OW", "K AE T", "D AO"]
    references = [["T AH M EY T OW", "K AE T S", "D AO G"], ["T AH M AA T OW", "K AH T", "D AO G"]]
    found = score_g2p.rate(hypotheses, references)
    # The nearest of "cat" are at one error each; the first of them has four phonemes.
    assert found.words == pytest.approx(200 / 3)
    assert (found.num_words, found.num_phones) == (3, 6 + 4 + 3)
    assert found.phones == pytest.approx(100 * 2 / 13)


@pytest.mark.parametrize(
    ("found", "wanted", "number"),
    [("", "", 0), ("a b", "", 2), ("", "a b", 2), ("a b c", "a c", 1), ("a c", "a b c", 1),
     ("k i t t e n", "s i t t i n g", 3)],
)  # fmt: skip
def test_distance(found, wanted, number):
    assert score_g2p.distance(found.split(), wanted.split()) == number


def test_every_written_word_has_a_tag_and_spans_are_well_formed():
    splits = make_number_corpus.make_splits(1, {"train": 600, "test": 100})
    again = make_number_corpus.make_splits(1, {"train": 600, "test": 100})
    assert splits == again
    assert not {row[0] for row in splits["train"]} & {row[0] for row in splits["test"]}
    kinds = set()
    for written, spoken, tags in splits["train"]:
        words, own = written.split(), tags.split()
        assert len(words) == len(own)
        assert any(character.isdigit() for character in written)
        assert not any(character.isdigit() for character in spoken), spoken
        for before, tag in zip(["O", *own], own, strict=False):
            if tag.startswith("I-"):
                assert before[2:] == tag[2:]
        for word, tag in zip(words, own, strict=True):
            if word[0].isdigit():
                assert tag != "O", written
        kinds |= set(own)
    assert {"B-DATE", "I-DATE", "B-TIME", "I-TIME", "B-PRICE", "B-NUMBER", "B-ORDINAL"} <= kinds


class Fixed:
    """Draws what it is told to."""

    def __init__(self, *values):
        self.values = list(values)

    def randint(self, *_):
        return self.values.pop(0)

    randrange = choice = randint


def test_what_is_said_is_what_is_written():
    price, clock = make_number_corpus.price, make_number_corpus.clock
    assert price(Fixed(9999, 101, "USD")) == ("$1.01", "one dollar and one cent")
    assert price(Fixed(9999, 50, "GBP")) == ("\u00a30.50", "fifty pence")
    assert price(Fixed(9999, 200000, "EUR"))[1] == "two thousand euros"
    assert clock(Fixed(4, 5, "PM")) == ("4:05 PM", "four oh five PM")
    assert clock(Fixed(12, 0, "AM")) == ("12:00 AM", "twelve AM")
    assert clock(Fixed(7, 30, "AM")) == ("7:30 AM", "seven thirty AM")


def test_docstrings_give_their_rest_and_their_first_line():
    rest = "It is long enough to be a source, since it has more than a few words in it."
    code = f'''
class A:
    """One two three.

    {rest}
    """
    def short(self):
        """One two three."""
    async def many(self):
        """{"word " * 30}

        {rest}
        """
'''
    assert list(make_docstring_corpus.pairs_of(code)) == [(rest, "One two three.")]
    with pytest.raises(SyntaxError):
        list(make_docstring_corpus.pairs_of("def ("))


def test_a_small_folder_has_whole_pairs_in_their_order(tmp_path):
    folder = tmp_path / "multi30k"
    folder.mkdir()
    for language in ("en", "de"):
        text = "".join(f"{number} {language}\n" for number in range(50))
        (folder / f"train.{language}.gz").write_bytes(gzip.compress(text.encode()))
    small = get_multi30k.cut(folder, 20)
    assert small == tmp_path / "multi30k-20"
    sides = [(small / f"train.{language}").read_text().splitlines() for language in ("en", "de")]
    numbers = [[int(line.split()[0]) for line in lines] for lines in sides]
    assert numbers[0] == numbers[1] == sorted(set(numbers[0])) and len(numbers[0]) == 20
    assert numbers[0] != list(range(20))
    assert get_multi30k.cut(folder, 20) == small, "again, and the same"
    assert [(small / "train.en").read_text().splitlines()] == sides[:1]
    with pytest.raises(get_multi30k.UnusableError, match="wants 1 to 50 pairs"):
        get_multi30k.cut(folder, 51)
