"""The parts of `nmt report` for which a model is loaded: data, scores, sentences, attention."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from nmt import errors
from nmt.data import readers, statistics
from nmt.evaluation import comparing, documents, metrics
from nmt.inference import attention_maps, held_out, loading, outcomes, translator

logger = logging.getLogger(__name__)

# Of a longer translation the attention of its beginning is shown.
MAX_MAP_TOKENS = 40


@dataclasses.dataclass(frozen=True)
class Translated:
    """A run with what its model makes of its validation set."""

    name: str
    loaded: loading.Loaded
    sources: list[str]
    references: list[str]
    translations: list[outcomes.Translation]

    @property
    def lines(self) -> list[str]:
        """The translations as text."""
        return [one.text for one in self.translations]


def sections(
    found: Sequence[tuple[str, Path]],
    *,
    num_sentences: int,
    num_maps: int,
    device: str,
    threads: int | None,
) -> list[documents.Section]:
    """Returns the sections on data, scores, sentences and attention.

    Args:
        found: names and folders of runs. Those without a model, or without their validation set, have
            a line that says so instead.
        num_sentences: of each kind.
        num_maps: sentences whose attention is shown, for each run.
        device: where models compute.
        threads: of the processor; None for as many as torch takes.
    """
    loading.set_up_threads(threads)
    notes: list[documents.Block] = []
    known: list[Translated] = []
    data: list[documents.Block] = []
    for name, folder in found:
        try:
            loaded = loading.load(folder, device=device)
            data += _statistics(name, folder, loaded)
            known.append(_translated(name, loaded))
        except errors.NMTError as error:
            notes.append(documents.Text(f"{name}: {error}"))
    parts = [documents.Section("Data", data)] if data else []
    if not known:
        return [*parts, documents.Section("Scores", notes)]
    first = known[0]
    systems = {one.name: one.lines for one in known if one.references == first.references}
    notes += [
        documents.Text(f"{one.name}: has another validation set, and stands alone.")
        for one in known
        if one.name not in systems
    ]
    return [
        *parts,
        documents.Section("Scores", [*notes, *_scores(known)]),
        documents.Section(
            "Scores by length",
            [
                documents.Text(
                    "BLEU on the lines of the validation set, by the words of the reference."
                ),
                comparing.by_length(systems, first.references, "bleu"),
            ],
        ),
        documents.Section(
            "Sentences",
            comparing.sentences(first.sources, first.references, systems, num_sentences),
        ),
        documents.Section("Attention", _attention(known, num_maps)),
    ]


def _translated(name: str, loaded: loading.Loaded) -> Translated:
    # Of several language pairs the first one is shown.
    texts = held_out.first_texts(loaded.config.data, loaded.texts)
    loaded = dataclasses.replace(loaded, texts=texts)
    pairs = list(readers.read_pairs(loaded.config.data.valid_corpora[0]))
    logger.info("%s: translating %d lines", name, len(pairs))
    machine = translator.Translator(
        loaded.model,
        loaded.texts,
        loaded.config.decoding,
        loaded.arithmetic,
        shortlist=loaded.shortlist,
    )
    sources = [src for src, _ in pairs]
    found = [best for best, *_ in machine.translate(sources)]
    return Translated(name, loaded, sources, [tgt for _, tgt in pairs], found)


def _statistics(name: str, folder: Path, loaded: loading.Loaded) -> list[documents.Block]:
    texts = loaded.texts
    unknown: dict[readers.Side, int] = {
        "src": texts.src.vocab.unk_id,
        "tgt": texts.tgt.vocab.unk_id,
    }
    sizes = {"src": len(texts.src.vocab), "tgt": len(texts.tgt.vocab)}
    caches = sorted((folder / "cache").iterdir()) if (folder / "cache").is_dir() else []
    told = [statistics.of_cache(place, unknown) for place in caches if place.is_dir()]
    rows = [
        [
            {"src": loaded.config.data.src_lang, "tgt": loaded.config.data.tgt_lang}[side],
            f"{own.num_tokens:,}",
            f"{own.mean_length:.1f}",
            f"{own.longest:,}",
            f"{own.num_used:,} of {sizes[side]:,}",
            f"{100 * own.unknown:.3f} %",
        ]
        for one in told
        if one is not None
        for side, own in one.sides.items()
    ]
    if not rows:
        return [documents.Text(f"{name}: its token cache is not in its folder.")]
    header = ["language", "tokens", "mean length", "longest", "pieces that occur", "unknown tokens"]
    counts = [
        ", ".join(f"{what} {number:,}" for what, number in one.counts.items())
        for one in told
        if one is not None
    ]
    return [
        documents.Text(f"{name}: pairs {'; '.join(counts)}"),
        documents.Table(header, rows),
    ]


def _scores(known: Sequence[Translated]) -> list[documents.Block]:
    rows = []
    for one in known:
        scores = [
            metrics.score(metric, one.lines, [one.references], metrics.MetricSettings())
            for metric in ("bleu", "chrf", "ter")
        ]
        words = sum(len(line.split()) for line in one.lines)
        wanted = sum(len(line.split()) for line in one.references)
        rows.append(
            [
                one.name,
                f"{len(one.lines):,}",
                *(f"{score.value:.2f}" for score in scores),
                f"{words / max(wanted, 1):.3f}",
            ]
        )
    signature = metrics.score(
        "bleu", known[0].lines, [known[0].references], metrics.MetricSettings()
    ).signature
    header = ["run", "lines", "BLEU", "chrF", "TER", "words to reference words"]
    return [
        documents.Text("The validation set, translated with the settings of each run."),
        documents.Table(header, rows),
        documents.Text(f"BLEU|{signature}"),
    ]


def _attention(known: Sequence[Translated], number: int) -> list[documents.Block]:
    blocks: list[documents.Block] = []
    for one in known:
        lengths = [len(found.tokens) for found in one.translations]
        # The first ones that are neither too short to be interesting nor too long to be read.
        shown = sorted(
            range(len(lengths)), key=lambda place: (not 3 <= lengths[place] <= 20, place)
        )
        for place in shown[:number]:
            tokens = one.translations[place].tokens[:MAX_MAP_TOKENS]
            told = attention_maps.attention_of(one.loaded, one.sources[place], tokens)
            if told is None:
                blocks.append(documents.Text(f"{one.name}: has no attention."))
                break
            columns, rows, values = told
            blocks.append(
                documents.HeatMap(f"{one.name}, line {place + 1:,}", columns, rows, values)
            )
    return blocks
