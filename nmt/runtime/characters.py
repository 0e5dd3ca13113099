"""What single characters are, and texts that not everything can take."""

import re
import unicodedata

# Surrogates but those that stand for the bytes of a name of a file.
_STRAY = re.compile("[\ud800-\udc7f\udd00-\udfff]")


def is_word_part(character: str) -> bool:
    """Returns whether a character is part of a word in any script.

    Marks, such as vowel signs of Hindi and accents on their own, belong to the letter before them.
    """
    return character.isalnum() or unicodedata.category(character)[0] == "M"


def encoded(text: str) -> bytes:
    """Returns a text in UTF-8; names of files that are none keep their bytes.

    Other lone surrogates, as the escapes of JSON may be, become U+FFFD.
    """
    return _STRAY.sub("\ufffd", text).encode("utf-8", "surrogateescape")


def printable(text: str) -> str:
    """Returns a text that can be written anywhere: what is no character becomes U+FFFD."""
    return encoded(text).decode("utf-8", "replace")


def is_writable(text: str) -> bool:
    """Returns whether a text can be written as UTF-8: lone surrogates, of JSON or of names, cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
