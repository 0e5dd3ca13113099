"""Where words end, for tokenizers that write a sign for each space."""

import re
import unicodedata

from nmt.runtime import characters
from nmt.text import tokenizer, vocab

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
# The sign for a space begins with this byte, where words are spelled in bytes.
_SPACE_BYTE = tokenizer.SPACE.encode()[0]

# What words go on behind, as in l'eau, and/or, and @name.
_LEADING = frozenset("'\u2019\"/@#&_+=*\\$")

# Scripts that write no spaces between words: Thai, Lao, Burmese, Khmer, and Chinese and Japanese.
UNSPACED = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x2E80, 0xABFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)


def is_letter(character: str) -> bool:
    """Returns whether a character is part of a word that spaces or punctuation would end."""
    return characters.is_word_part(character) and not is_unspaced(character)


def ends_word(character: str) -> bool:
    """Returns whether no letter goes on behind a character that ends a phrase.

    Letters end their word, and so do signs such as `}` and `>`; not those that lead on, which are dashes,
    opening brackets and quotation marks, and `_LEADING`.
    """
    if is_unspaced(character):
        return False
    return character not in _LEADING and unicodedata.category(character) not in {"Pd", "Ps", "Pi"}


def is_unspaced(character: str) -> bool:
    """Returns whether a character is of a script that writes no spaces between words."""
    return any(first <= ord(character) <= last for first, last in UNSPACED)


def continuing_ids(pieces: vocab.Vocab) -> frozenset[int]:
    """Returns the ids of pieces that go on with the word before them."""
    special = {pieces.unk_id, pieces.bos_id, pieces.eos_id, pieces.pad_id}
    return frozenset(
        index
        for index, piece in enumerate(pieces.pieces)
        if index not in special and _continues(piece)
    )


def _continues(piece: str) -> bool:
    byte = _BYTE.fullmatch(piece)
    if byte is None:
        return bool(piece) and is_letter(piece[0])
    number = int(byte[1], 16)
    if number < 0x80:
        return chr(number).isalnum()
    return number != _SPACE_BYTE
