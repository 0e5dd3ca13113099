"""Terms in a text: case, word boundaries, the longest first, each as often as it comes."""

import time
from pathlib import Path

import pytest

from nmt import errors
from nmt.text import glossary


@pytest.fixture
def read(tmp_path: Path):
    def make(text: str) -> glossary.Glossary:
        path = tmp_path / "terms.tsv"
        path.write_text(text, encoding="utf-8")
        return glossary.Glossary.read(path)

    return make


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("The bank closes.", ("Geldinstitut",)),
        ("the Bank", ()),
        ("banks, riverbank, bank_1", ()),
        ("(bank)", ("Geldinstitut",)),
        ("bank bank", ("Geldinstitut", "Geldinstitut")),
        ("the central bank of", ("Zentralbank",)),
        ("a bank account, a bank", ("Konto", "Geldinstitut")),
        ("C++ and C+++", ("C++", "C++")),
        ("NMT", ("NMT",)),
        ("Übung", ("exercise",)),
        ("aÜbung", ()),
        ("", ()),
    ],
)
def test_terms_are_found_where_they_stand(read, text, targets):
    terms = read(
        "bank\tGeldinstitut\nbank account\tKonto\ncentral bank\tZentralbank\n\nC++\t\nNMT\tNMT\n"
        "Übung\texercise\n"
    )
    assert terms.targets(text) == targets


@pytest.mark.parametrize(
    ("patterns", "text", "targets"),
    [
        ((r"\{\w+\}",), "a {bank} of {x}, {x}", ("{bank}", "{x}", "{x}")),
        ((r"<x>(.*?)</x>",), "see <x>Foo_Bar 12</x> bank", ("Foo_Bar 12", "Geldinstitut")),
        ((r"<x>(.*?)</x>",), "<x>bank</x><x> </x>", ("bank",)),
        ((r"<[^<>]+>", r"\d+"), 'bank <a href="1"> 22', ("Geldinstitut", '<a href="1">', "22")),
        ((r"(a)|(b)x",), "bx a", ("b", "a")),
        ((r"q*",), "bank", ("Geldinstitut",)),
        ((r"\d+", r"\d"), "12 bank", ("12", "Geldinstitut")),
        ((), "{bank}", ("Geldinstitut",)),
    ],
)
def test_what_patterns_match_is_kept_and_terms_in_it_do_not_count(patterns, text, targets):
    assert glossary.Glossary({"bank": "Geldinstitut"}, patterns).targets(text) == targets


def test_a_pattern_that_is_none_is_one_line():
    with pytest.raises(errors.UsageError, match=r"--keep: is no regular expression .*given: '\('"):
        glossary.Glossary({}, ["("])


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("我去银行取钱", ("bank",)),
        ("银行ATM", ("bank",)),
        ("ภาคำภา", ("word",)),
        ("कमी", ()),
        ("कम है", ("less",)),
        ("cafe\u0301", ()),
        ("cafe", ("Café",)),
    ],
)
def test_marks_belong_to_words_and_scripts_without_spaces_have_no_borders(read, text, targets):
    assert read("银行\tbank\nคำ\tword\nकम\tless\ncafe\tCafé\n").targets(text) == targets


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a\n", ":1:"),
        ("a\tb\n\tc\n", ":2:"),
        ("a\tb\tc\n", ":1:"),
        ("a\tb\na\tc\n", ":2:"),
        ("", "no terms"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(read, text, place):
    with pytest.raises(errors.DataError, match="terms.tsv") as caught:
        read(text)
    assert place in str(caught.value)


def test_the_same_entry_twice_is_no_mistake(read):
    assert read("a\tb\na\tb\n").targets("a") == ("b",)


def test_many_terms_take_little_time(read):
    terms = read("".join(f"term {number}\tWort {number}\n" for number in range(50_000)))
    text = "a term 7, term 49999 and term 50000 " * 500
    began = time.process_time()
    assert terms.targets(text) == ("Wort 7", "Wort 49999") * 500
    assert time.process_time() - began < 5.0
