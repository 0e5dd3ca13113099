"""The corpora that a model is judged on, each with the target language that it asks for."""

import dataclasses
from collections.abc import Sequence

from nmt.config import corpora, schema
from nmt.data import readers
from nmt.inference import texts
from nmt.text import noise


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """One of them.

    Attributes:
        name: of its language pair, `en-de`.
        tgt_lang: what its sources are tagged with; None for a model without tags.
        is_mono: whether its sources are its references, which are to be damaged.
        sources: the source lines.
        references: the target lines.
    """

    name: str
    tgt_lang: str | None
    is_mono: bool
    sources: list[str]
    references: list[str]

    def texts_of(self, both: texts.Texts) -> texts.Texts:
        """Returns the sides of a model, aimed at this language; undamaged if it is not `is_mono`."""
        aimed = both.towards(self.tgt_lang)
        return aimed if self.is_mono else dataclasses.replace(aimed, damage=None)


def first_texts(data: schema.DataConfig, both: texts.Texts) -> texts.Texts:
    """Returns the sides of a model, aimed at its first validation corpus: its language, its damage."""
    first = data.valid_corpora[0]
    aimed = both.towards(data.pair_of(first)[1] if data.languages else None)
    if first.mono is None:
        return aimed
    (mask,) = both.src.ids_of([corpora.MASK])
    return dataclasses.replace(aimed, damage=noise.Noise(both.src.vocab, mask, data.noise))


def read(data: schema.DataConfig, several: Sequence[schema.Corpus]) -> list[HeldOut]:
    """Reads them.

    Args:
        data: the section that they are from.
        several: its `valid_corpora` or `test_corpora`, or some of them.

    Raises:
        errors.DataError: one is malformed.
        errors.FileError: one cannot be read.
    """
    found = []
    for name, corpus in zip(data.pair_names(several), several, strict=True):
        pairs = list(readers.read_pairs(corpus))
        tgt_lang = data.pair_of(corpus)[1] if data.languages else None
        sides = [src for src, _ in pairs], [tgt for _, tgt in pairs]
        found.append(HeldOut(name, tgt_lang, corpus.mono is not None, *sides))
    return found
