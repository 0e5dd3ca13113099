"""What single characters are, and texts that not everything can take."""

import unicodedata


def is_word_part(character: str) -> bool:
    """Returns whether a character is part of a word in any script.

    Marks, such as vowel signs of Hindi and accents on their own, belong to the letter before them.
    """
    return character.isalnum() or unicodedata.category(character)[0] == "M"


def printable(text: str) -> str:
    """Returns a text without the bytes of names of files that are no UTF-8, which none can write."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def is_writable(text: str) -> bool:
    """Returns whether a text can be written as UTF-8: lone surrogates, of JSON or of names, cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
