"""What a translation is given beside its text, where its line asks for it: scores, words, alignments."""

import dataclasses
from collections.abc import Sequence

from nmt.inference import alignments, outcomes, requests, texts
from nmt.search import forced
from nmt.text import tokenizer, words

# How SentencePiece writes a piece that it does not know.
UNKNOWN = "\u2047"


class Explainer:
    """Token scores, word alignments, and source words in place of unknown pieces."""

    def __init__(self, both: texts.Texts) -> None:
        """Takes the two sides of the model."""
        self._texts = both

    def explain(
        self,
        asked: requests.Request,
        num_src: int,
        found: outcomes.Translation,
        trace: forced.Trace,
    ) -> outcomes.Translation:
        """Returns a translation with what its line asks for besides.

        Args:
            asked: the request of the line.
            num_src: tokens of its source, tags and EOS included, as the model has read it.
            found: the translation.
            trace: of that translation alone.
        """
        decoding, vocab = asked.decoding, self._texts.tgt.vocab
        if decoding.token_scores:
            tokens = [*found.tokens, vocab.eos_id]
            found = dataclasses.replace(
                found,
                pieces=tuple(vocab.pieces[token] for token in tokens),
                token_scores=tuple(trace.log_probs_BKT[: len(tokens)].tolist()),
            )
        if not asked.wants_attention:
            return found
        assert trace.attention_BKTS is not None, "the planner has seen to it"
        attention_TS = trace.attention_BKTS[: len(found.tokens)]
        tags = self._texts.tags(asked.tgt_lang)
        surfaces = self._texts.src.surfaces(asked.text)[: num_src - 1 - len(tags)]
        # Tags belong to no word.
        src_words = [-1] * len(tags) + words.words_of(surfaces)
        if decoding.alignments:
            # Unknown pieces are written as words of their own.
            pieces = [
                f" {UNKNOWN} " if token == vocab.unk_id else vocab.pieces[token]
                for token in found.tokens
            ]
            aligned = alignments.align(attention_TS, src_words, words.words_of(pieces))
            found = dataclasses.replace(found, alignment=aligned)
        if decoding.replace_unknown and vocab.unk_id in found.tokens:
            written = self._words(asked.text)
            best = alignments.best_sources(attention_TS, src_words)
            sources = [written[word] if word >= 0 else UNKNOWN for word in best]
            text = self._replaced(found.tokens, sources, asked.avoid)
            found = dataclasses.replace(found, text=text)
        return found

    def _words(self, text: str) -> list[str]:
        """Returns the words of a source as they are written, or normalised where that splits some.

        The tokenizer parts words at its spaces alone; other white space is part of a word.
        """
        pieces = self._texts.src.normalize(text).replace(tokenizer.SPACE, " ")
        normalized = [word for word in pieces.split(" ") if word]
        written = text.split()
        return written if len(written) == len(normalized) else normalized

    def _replaced(self, tokens: Sequence[int], sources: Sequence[str], avoid: Sequence[str]) -> str:
        """Returns the text with a source word in place of every unknown piece.

        Args:
            tokens: target ids.
            sources: a source word for each of them.
            avoid: phrases that no source word may complete; where one would, the piece stays unknown.
        """
        parts: list[str] = []
        known: list[int] = []
        copied: list[tuple[int, str]] = []
        for token, word in zip(tokens, sources, strict=True):
            if token == self._texts.tgt.vocab.unk_id:
                copied.append((len(parts) + 1, word))
                parts += [self._texts.tgt.decode(known), UNKNOWN]
                known = []
            else:
                known.append(token)
        parts.append(self._texts.tgt.decode(known))
        for place, word in copied:
            before = _in_a_row(parts)
            parts[place] = word
            after = _in_a_row(parts)
            if any(
                outcomes.occurrences(after, phrase) > outcomes.occurrences(before, phrase)
                for phrase in avoid
            ):
                parts[place] = UNKNOWN
        return _in_a_row(parts)


def _in_a_row(parts: Sequence[str]) -> str:
    """Returns parts of a text with spaces between, as far as there is anything in them."""
    return " ".join(part.strip() for part in parts if part.strip())
