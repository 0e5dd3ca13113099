"""Texts that not everything can take are made so that it can."""

import pytest

from nmt.runtime import characters


@pytest.mark.parametrize(
    ("text", "data", "shown"),
    [
        ("größe \U0001f600", "größe \U0001f600".encode(), "größe \U0001f600"),
        ("caf\udce9", b"caf\xe9", "caf\ufffd"),  # a name of a file in Latin-1
        ("half \ud83d, \udc00", "half \ufffd, \ufffd".encode(), "half \ufffd, \ufffd"),  # of JSON
    ],
)
def test_what_is_no_character_is_kept_as_a_byte_or_replaced(text, data, shown):
    assert characters.encoded(text) == data
    assert characters.printable(text) == shown
    assert characters.is_writable(shown)
