"""The two sides of a model as text: tokenizers, the tags of target languages, and damage."""

import dataclasses
import hashlib
import random
from collections.abc import Sequence

from nmt import errors
from nmt.config import corpora
from nmt.text import noise, tokenizer


@dataclasses.dataclass(frozen=True)
class Texts:
    """The tokenizers of the two sides, and what sources begin with.

    Attributes:
        src: of the source side.
        tgt: of the target side.
        languages: target languages that sources are tagged with; none where the model has no tags.
        tgt_lang: the one that is meant where nothing else is said; None for the only one.
        damage: what damages every source, in validation on monolingual text; else None.
    """

    src: tokenizer.Tokenizer
    tgt: tokenizer.Tokenizer
    languages: tuple[str, ...] = ()
    tgt_lang: str | None = None
    damage: noise.Noise | None = None

    def towards(self, tgt_lang: str | None) -> "Texts":
        """Returns the same with another target language, unless that is None.

        Raises:
            errors.UsageError: the model has no such language, or no tags.
        """
        if tgt_lang is None:
            return self
        self.tags(tgt_lang)
        return dataclasses.replace(self, tgt_lang=tgt_lang)

    def tags(self, tgt_lang: str | None = None) -> list[int]:
        """Returns the ids that a source begins with.

        Args:
            tgt_lang: the target language; None for the one that is meant where nothing is said.

        Raises:
            errors.UsageError: the model has no such language, or no tags; or it has several languages,
                and none is meant.
        """
        if not self.languages:
            if tgt_lang is None:
                return []
            raise errors.UsageError(
                f"tgt_lang: this model has one direction, without tags (given: {tgt_lang}). Leave it out."
            )
        known = ", ".join(self.languages)
        chosen = tgt_lang or self.tgt_lang
        if chosen is None:
            if len(self.languages) > 1:
                raise errors.UsageError(
                    f"tgt_lang: missing; this model translates into {known}. Say which with --tgt-lang."
                )
            (chosen,) = self.languages
        if chosen not in self.languages:
            hint = errors.did_you_mean(chosen, self.languages)
            raise errors.UsageError(
                f"tgt_lang: unknown to this model (given: {chosen}).{hint} Known: {known}."
            )
        return self.src.ids_of([corpora.language_tag(chosen)])

    def encode_sources(
        self, lines: Sequence[str], tgt_langs: Sequence[str | None] | None = None
    ) -> list[list[int]]:
        """Returns the ids of each source with its tags, without EOS; of a blank one none.

        Args:
            lines: source text.
            tgt_langs: the target language of each; None for the one that is meant everywhere.

        Raises:
            errors.UsageError: see `tags`.
        """
        encoded = self.src.encode_batch(lines)
        if self.damage is not None:
            encoded = [
                self.damage.apply(ids, _generator(line)) if ids else ids
                for line, ids in zip(lines, encoded, strict=True)
            ]
        wanted = tgt_langs or [None] * len(lines)
        encoded = [ids if line.strip() else [] for line, ids in zip(lines, encoded, strict=True)]
        # A blank line needs no language.
        named = dict.fromkeys(lang for ids, lang in zip(encoded, wanted, strict=True) if ids)
        tags = {tgt_lang: self.tags(tgt_lang) for tgt_lang in named}
        return [
            [*tags[tgt_lang], *ids] if ids else []
            for ids, tgt_lang in zip(encoded, wanted, strict=True)
        ]


def _generator(line: str) -> random.Random:
    """Returns random numbers of a line's own: it is damaged in the same way at each validation."""
    digest = hashlib.blake2b(line.encode("utf-8", errors="replace"), digest_size=8).digest()
    return random.Random(int.from_bytes(digest, "big"))
