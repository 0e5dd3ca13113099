"""The parts of `nmt report` for which a model is loaded: data, scores, sentences, attention."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from nmt import errors
from nmt.data import corpus, readers, statistics
from nmt.evaluation import breakdowns, comparing, documents, judging, metrics, significance
from nmt.inference import attention_maps, held_out, loading, outcomes, translator
from nmt.models import seq2seq
from nmt.runtime import device as devices
from nmt.training import preparation

logger = logging.getLogger(__name__)

# Of a longer translation the attention of its beginning is shown.
MAX_MAP_TOKENS = 40

# Sentences whose attention is shown where nobody says which, and the first lines they are chosen from.
NUM_MAPS = 3
NUM_TRIED = 50

METRICS = ("bleu", "chrf", "ter")


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
    map_lines: Sequence[int],
    device: str,
    threads: int | None,
) -> list[documents.Section]:
    """Returns the sections on data, scores, sentences and attention.

    Args:
        found: names and folders of runs. Those without a model, or without their validation set, have
            a line that says so instead.
        num_sentences: of each kind.
        map_lines: lines of the validation set whose attention is shown, counted from 1; none for the
            first ones that are neither short nor long.
        device: where models compute.
        threads: of the processor; None for as many as torch takes.
    """
    loading.set_up_threads(threads)
    devices.resolve(device)  # a wrong name is no fault of a run
    notes: list[documents.Block] = []
    known: list[Translated] = []
    data: list[documents.Block] = []
    for name, folder in found:
        try:
            loaded = loading.load(folder, device=device)
            data += _statistics(name, folder, loaded)
            pairs = list(readers.read_pairs(loaded.config.data.valid_corpora[0]))
        except errors.NMTError as error:
            notes.append(documents.Text(f"{name}: {error}"))
            continue
        _check_lines(map_lines, len(pairs))
        if (number := len(loaded.config.data.valid_corpora)) > 1:
            notes.append(documents.Text(f"{name}: of {number} validation corpora, the first one."))
        try:
            known.append(_translated(name, loaded, pairs))
        except errors.NMTError as error:
            notes.append(documents.Text(f"{name}: {error}"))
    parts = [documents.Section("Data", data)] if data else []
    if not known:
        return [*parts, documents.Section("Scores", notes)]
    groups: dict[tuple[str, ...], list[Translated]] = {}
    for one in known:
        groups.setdefault(tuple(one.references), []).append(one)
    if len(groups) > 1:
        notes.append(
            documents.Text(
                "Not all runs have the same validation set: those that have are compared."
            )
        )
    lengths: list[documents.Block] = []
    sentences: list[documents.Block] = []
    for group in groups.values():
        systems, references = _systems(group), group[0].references
        lengths.append(comparing.by_length(systems, references, "bleu"))
        sentences += comparing.sentences(group[0].sources, references, systems, num_sentences)
    return [
        *parts,
        documents.Section("Scores", [*notes, *_scores(list(groups.values()))]),
        documents.Section(
            "Scores by length",
            [
                documents.Text(
                    "BLEU on the lines of the validation set, by the words of the reference."
                ),
                *lengths,
            ],
        ),
        documents.Section("Sentences", sentences),
        documents.Section("Attention", _attention(known, map_lines, NUM_MAPS)),
    ]


def _systems(group: Sequence[Translated]) -> dict[str, list[str]]:
    """Returns the translations of runs by name."""
    return {one.name: one.lines for one in group}


def _translated(name: str, loaded: loading.Loaded, pairs: Sequence[tuple[str, str]]) -> Translated:
    # Of several language pairs the first one is shown.
    texts = held_out.first_texts(loaded.config.data, loaded.texts)
    loaded = dataclasses.replace(loaded, texts=texts)
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
    told = [statistics.of_cache(place, unknown) for place in _caches(folder, loaded)]
    data = loaded.config.data
    pairs = {data.pair_of(entry) for entry in data.train}
    # Of several pairs all sources are one side, whatever their languages.
    src, tgt = pairs.pop() if len(pairs) == 1 else ("source", "target")
    rows = [
        [
            {"src": src, "tgt": tgt}[side],
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
        return [documents.Text(f"{name}: its token cache is not there.")]
    header = ["side", "tokens", "mean length", "longest", "pieces that occur", "unknown tokens"]
    counts = [
        ", ".join(f"{what} {number:,}" for what, number in one.counts.items())
        for one in told
        if one is not None
    ]
    return [
        documents.Text(f"{name}: pairs {'; '.join(counts)}"),
        documents.Table(header, rows),
    ]


def _caches(folder: Path, loaded: loading.Loaded) -> list[Path]:
    """Returns the token caches of a run that are there."""
    config = loaded.config
    if config.data.cache_dir is None:
        parent = folder / "cache"
        return (
            sorted(place for place in parent.iterdir() if place.is_dir()) if parent.is_dir() else []
        )
    assert isinstance(loaded.model, seq2seq.Seq2Seq), "a run has one model"
    texts = loaded.texts
    num_pieces = max(len(texts.src.vocab), len(texts.tgt.vocab))
    kept = preparation.pair_filter(config, loaded.model)
    try:
        _, _, key = preparation.identify(config, folder / "tokenizer", kept, num_pieces, None)
    except errors.NMTError:
        return []
    place = corpus.folder_of(Path(config.data.cache_dir), key)
    return [place] if place.is_dir() else []


def _scores(groups: Sequence[Sequence[Translated]]) -> list[documents.Block]:
    """Returns scores with intervals, and tests within each group, whose validation set is one."""
    judges = [metrics.build(name, metrics.MetricSettings()) for name in METRICS]
    request = judging.Request(judges, significance.NUM_RESAMPLES)
    blocks: list[documents.Block] = [
        documents.Text(
            "The validation set, translated with the settings of each run; 95 % intervals by bootstrap "
            "resampling."
        )
    ]
    for group in groups:
        own, references = _systems(group), group[0].references
        wanted = sum(len(line.split()) for line in references)
        rows = [
            [
                name,
                f"{len(lines):,}",
                f"{sum(len(line.split()) for line in lines) / max(wanted, 1):.3f}",
            ]
            for name, lines in own.items()
        ]
        blocks.append(documents.Table(["run", "lines", "words to reference words"], rows))
        blocks += comparing.tables(judging.judge(own, breakdowns.Texts([references]), request))
    return blocks


def attention_of_lines(
    name: str,
    folder: Path,
    lines: Sequence[int] | None,
    *,
    device: str,
    threads: int | None,
) -> list[documents.Block]:
    """Returns the attention of some lines of a run's validation set, or what it lacks for that.

    Args:
        name: of the run.
        folder: of the run.
        lines: counted from 1; None for the first ones that are neither short nor long.
        device: where the model computes.
        threads: of the processor; None for as many as torch takes.

    Raises:
        errors.UsageError: there is no such line.
    """
    loading.set_up_threads(threads)
    devices.resolve(device)  # a wrong name is no fault of a run
    try:
        loaded = loading.load(folder, device=device)
        pairs = list(readers.read_pairs(loaded.config.data.valid_corpora[0]))
    except errors.NMTError as error:
        return [documents.Text(f"{name}: {error}")]
    _check_lines(lines or (), len(pairs))
    pairs = pairs[: max(lines, default=NUM_TRIED) if lines else NUM_TRIED]
    try:
        known = _translated(name, loaded, pairs)
    except errors.NMTError as error:
        return [documents.Text(f"{name}: {error}")]
    return _attention([known], lines or (), NUM_MAPS)


def _check_lines(lines: Sequence[int], number: int) -> None:
    """Raises `errors.UsageError` where a line (from 1) is none of so many."""
    for line in lines:
        if line > number:
            raise errors.UsageError(f"--lines: the validation set has {number} (given: {line}).")


def _attention(
    known: Sequence[Translated], lines: Sequence[int], number: int
) -> list[documents.Block]:
    blocks: list[documents.Block] = []
    for one in known:
        if not one.loaded.model.attends:
            blocks.append(documents.Text(f"{one.name}: has no attention."))
            continue
        lengths = [len(found.tokens) for found in one.translations]
        # The first ones that are neither too short to be interesting nor too long to be read.
        shown = sorted(
            range(len(lengths)), key=lambda place: (not 3 <= lengths[place] <= 20, place)
        )
        for place in [line - 1 for line in lines] or shown[:number]:
            tokens = one.translations[place].tokens[:MAX_MAP_TOKENS]
            told = attention_maps.attention_of(one.loaded, one.sources[place], tokens)
            if told is None:
                blocks.append(documents.Text(f"{one.name}, line {place + 1:,}: is blank."))
                continue
            columns, rows, values = told
            if len(tokens) < lengths[place]:
                # What the last row tells of is the next token, not EOS.
                rows, values = rows[:-1], values[:-1]
            columns, values = columns[:MAX_MAP_TOKENS], [row[:MAX_MAP_TOKENS] for row in values]
            blocks.append(
                documents.HeatMap(f"{one.name}, line {place + 1:,}", columns, rows, values)
            )
    return blocks
