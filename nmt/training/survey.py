"""Everything that can be known of a run before it starts, section by section."""

import dataclasses
import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nmt import errors
from nmt.config import schema
from nmt.data import filters, findings, readers, survey_files, survey_pairs, survey_tokens
from nmt.models import abilities, seq2seq
from nmt.runtime import device as devices
from nmt.runtime import memory
from nmt.text import tokenizer
from nmt.training import initial, outlook, preparation, probe

# Pairs of a held-out corpus that are tokenised at most, at even distances.
MAX_HELD_OUT = 10_000


@dataclasses.dataclass
class Section:
    """A part of the report.

    Attributes:
        name: of the part.
        lines: what is to be read.
        figures: the same by name, JSON-able.
        found: what is wrong.
    """

    name: str
    lines: list[str] = dataclasses.field(default_factory=list)
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)
    found: list[findings.Finding] = dataclasses.field(default_factory=list)


class Survey:
    """Looks at the corpora, the tokenizer, the model and the run folder of a configuration."""

    def __init__(
        self, config: schema.Config, arithmetic: devices.Arithmetic, *, with_probe: bool
    ) -> None:
        """Takes what `nmt train` would take.

        Args:
            config: the whole configuration.
            arithmetic: device and precision.
            with_probe: whether a few updates are tried.
        """
        self._config = config
        self._arithmetic = arithmetic
        self._with_probe = with_probe
        train = {f"data.train.{n}": entry for n, entry in enumerate(config.data.train)}
        held_out: dict[str, schema.Corpus] = {}
        for name, several in (
            ("data.valid", config.data.valid_corpora),
            ("data.test", config.data.test_corpora),
        ):
            names = [name] if len(several) == 1 else [f"{name}.{n}" for n in range(len(several))]
            held_out |= dict(zip(names, several, strict=True))
        self._train: dict[str, schema.Corpus] = dict(train)
        self._held_out: dict[str, schema.Corpus] = held_out
        self._num_lines: dict[str, int] = {}  # of the corpora that can be read
        self._pairs: dict[str, survey_pairs.PairSurvey] = {}
        self._stride = 1
        self._outlook = outlook.look_at_run(config)

    def sections(self) -> Iterator[Section]:
        """Yields each section as soon as it is known; what cannot be known is left out."""
        yield self._files()
        yield self._texts()
        samples = [self._kept(name) for name in self._train]
        # A temporary folder elsewhere: nothing is written where the run will be.
        with tempfile.TemporaryDirectory(prefix="nmt-check-") as scratch:
            if any(samples):
                yield from self._trial(samples, Path(scratch))
        yield self._run_folder()

    def _files(self) -> Section:
        """Looks at the bytes of every file, once each."""
        section, surveys = Section("files"), dict[readers.Place, survey_files.FileSurvey]()
        for name, entry in (self._train | self._held_out).items():
            try:
                by_kind = readers.files_by_kind(entry)
                if links := readers.alignment_files(entry):
                    by_kind["alignments"] = links
            except errors.NMTError as error:
                section.found.append(findings.of_error(readers.describe(entry), error))
                continue
            paths = [path for paths in by_kind.values() for path in paths]
            for path in paths:
                if path not in surveys:
                    surveys[path] = survey_files.survey_file(path)
                    section.found += surveys[path].found
            bad = [f for p in paths for f in surveys[p].found if f.severity == "error"]
            counts = [sum(surveys[path].num_lines for path in side) for side in by_kind.values()]
            shown = " and ".join(f"{count:,}" for count in dict.fromkeys(counts))
            section.lines.append(f"{name:<14} {shown:>12} lines  {readers.describe(entry)}")
            section.figures[name] = {str(p): surveys[p].num_lines for p in paths}
            if bad:
                continue
            self._num_lines[name] = min(counts)
            if len(set(counts)) > 1:
                what = f"differ in their number of lines ({shown})"
                advice = "Line n translates line n: check that both are complete and fit."
                found = findings.Finding("error", readers.describe(entry), what, advice)
                section.found.append(found)
        return section

    def _texts(self) -> Section:
        """Looks at the pairs: the held-out ones first, which training may not contain."""
        section = Section("pairs")
        watched: set[int] = set()
        others = []
        for name in [name for name in self._held_out if name in self._num_lines]:
            one_in = _parts(self._num_lines[name], survey_pairs.MAX_COMPARED)
            stride = _parts(self._num_lines[name], MAX_HELD_OUT)
            entry = self._held_out[name]
            survey = survey_pairs.survey_pairs(entry, stride=stride, one_in=one_in)
            self._pairs[name] = survey
            others.append(survey_pairs.HeldOut(survey))
            watched |= survey_pairs.checksums(entry, one_in=one_in)
        total = sum(self._num_lines.get(name, 0) for name in self._train)
        one_in = _parts(total, survey_pairs.MAX_COMPARED)
        self._stride = _parts(total, survey_pairs.MAX_KEPT)
        for name in self._train:
            if name in self._num_lines:
                self._pairs[name] = survey_pairs.survey_pairs(
                    self._train[name],
                    stride=self._stride,
                    one_in=one_in,
                    watched=frozenset(watched),
                    held_out=others,
                )
                section.found += survey_pairs.alignment_faults(self._train[name])
        for name in self._train | self._held_out:
            if name in self._pairs:
                _show_pairs(name, self._pairs[name], section)
        for other in others:
            section.found += other.faults()
        if len(self._train) > 1:
            section.found += survey_pairs.shared_pairs(
                [self._pairs[name] for name in self._train if name in self._pairs]
            )
        return section

    def _kept(self, name: str) -> list[survey_pairs.Pair]:
        return self._pairs[name].kept if name in self._pairs else []

    def _trial(
        self, samples: Sequence[Sequence[survey_pairs.Pair]], scratch: Path
    ) -> Iterator[Section]:
        """Yields what a tokenizer and a model on the sample show."""
        section, made = Section("tokens"), scratch / "tokenizer"
        texts = scratch / "texts"
        texts.mkdir()
        config = probe.sampled_config(self._config, samples, texts)
        origin = self._make_tokenizers(config, made, section)
        sizes = (self._config.tokenizer.vocab_size, self._config.tokenizer.tgt_vocab_size)
        tokenizers: tuple[survey_tokens.Tokenizer, survey_tokens.Tokenizer]
        tokenizers = (survey_tokens.WordCounter(), survey_tokens.WordCounter())
        num_src, num_tgt, ids = sizes[0], sizes[1] or sizes[0], dict[str, frozenset[int]]()
        if origin:
            src, tgt = (tokenizer.Tokenizer.load(made, side) for side in ("src", "tgt"))
            tokenizers, num_src, num_tgt = (src, tgt), len(src.vocab), len(tgt.vocab)
            ids = {
                side: survey_tokens.uncovered_ids(t.vocab)
                for side, t in (("src", src), ("tgt", tgt))
            }
            section.lines.append(
                f"tokenizer      {origin}; {num_src:,} source and {num_tgt:,} target pieces"
                + (", shared" if config.tokenizer.is_shared else "")
            )
        try:
            shared = config.tokenizer.is_shared
            model = seq2seq.build(config.model, num_src, num_tgt, shared=shared)
            if self._outlook.action not in {"resume", "finished"}:
                initial.load_weights(config, model)
            abilities.check(model, config.decoding)
        except errors.NMTError as error:
            section.found.append(findings.of_error("model", error))
            yield section
            return
        limits = preparation.pair_filter(self._config, model)
        self._outlook = outlook.compare_corpora(
            self._outlook, self._config, made, limits, max(num_src, num_tgt)
        )
        surveys = {
            name: survey_tokens.survey_tokens(
                self._kept(name), tokenizers[0], tokenizers[1], limits, ids
            )
            for name in self._train | self._held_out
            if name in self._pairs
        }
        self._show_tokens(surveys, limits, section, "tokens" if origin else "words")
        yield section
        kept = [surveys[name] for name in self._train if name in surveys]
        num_parameters, width = model.num_parameters(), model.decoder.embedding_size
        del model
        yield self._model(num_parameters)
        num_kept = sum(survey.counts.kept for survey in kept)
        if num_kept:
            mean_tgt = sum(survey.num_tgt for survey in kept) / num_kept
            share = num_kept / sum(survey.counts.total for survey in kept)
            rates = probe.rate_findings(config.training, width)
            yield self._training(share, mean_tgt, samples, made if origin else None, rates)

    def _make_tokenizers(self, config: schema.Config, made: Path, section: Section) -> str | None:
        """Makes the tokenizers of the run; returns where they are from, or None if there are none."""
        if self._outlook.action in {"resume", "finished"}:
            shutil.copytree(Path(self._config.run_dir) / "tokenizer", made)
            return "of the run so far"
        if self._config.training.init_from is not None:
            try:
                shutil.copytree(Path(self._config.training.init_from) / "tokenizer", made)
            except OSError as error:  # a run that goes on needs that folder no more
                what = f"cannot be read ({error.strerror or error})"
                advice = "Lengths are counted in words here."
                found = findings.Finding("warning", "training.init_from", what, advice)
                section.found.append(found)
                return None
            return "of training.init_from"
        try:
            preparation.make_tokenizers(config, made)
        except errors.NMTError as error:
            found = findings.of_error("tokenizer", error)
            if self._stride > 1 and not config.tokenizer.is_ready:
                advice = "The whole text may do; lengths are counted in words here."
                found = dataclasses.replace(
                    found,
                    severity="warning",
                    what=f"fails on a sample: {found.what}",
                    advice=advice,
                )
            section.found.append(found)
            return None
        if config.tokenizer.is_ready:
            return "ready model"
        return f"{config.tokenizer.type}, trained on {self._sample()}"

    def _sample(self) -> str:
        """Returns in words what tokenizer and filters were tried on."""
        if self._stride == 1:
            return "all training pairs"
        return f"every {self._stride}th training pair"

    def _show_tokens(
        self,
        surveys: dict[str, survey_tokens.TokenSurvey],
        limits: filters.PairFilter,
        section: Section,
        unit: str,
    ) -> None:
        section.figures |= {"unit": unit, "sample": self._sample(), "corpora": {}}
        for name, survey in surveys.items():
            place, counts = self._pairs[name].place, survey.counts
            kept = max(counts.kept, 1)
            lengths = f"{survey.num_src / kept:.1f} source and {survey.num_tgt / kept:.1f} target"
            text = f"{name:<14} {lengths} {unit} a pair, longest {survey.longest_src:,} and "
            text += f"{survey.longest_tgt:,}"
            figures: dict[str, Any] = {
                "pairs": counts.total,
                "kept": counts.kept,
                "src_mean": survey.num_src / kept,
                "tgt_mean": survey.num_tgt / kept,
                "src_longest": survey.longest_src,
                "tgt_longest": survey.longest_tgt,
            }
            if name in self._train:
                section.found += survey_tokens.filter_findings(place, survey, limits, unit)
                text += f"; {counts.kept:,} of {counts.total:,} pass the filters"
            elif unit == "tokens":
                shares = {
                    side: count / max(survey.num_tokens[side], 1)
                    for side, count in survey.uncovered.items()
                }
                figures["uncovered"] = shares
                text += f"; not covered: {shares['src']:.2%} and {shares['tgt']:.2%}"
                section.found += survey_tokens.cover_findings(place, survey)
            section.lines.append(text)
            section.figures["corpora"][name] = figures

    def _model(self, num_parameters: int) -> Section:
        section, model = Section("model"), self._config.model
        room = outlook.disk_of(self._config, num_parameters)
        arithmetic = self._arithmetic
        held = num_parameters * probe.TENSORS_OF_PARAMETER * arithmetic.weights_dtype.itemsize
        section.lines = [
            f"shape          {model.encoder.type} encoder, {model.decoder.type} decoder",
            f"parameters     {num_parameters:,}; with gradients and optimiser {_size(held)}",
            f"arithmetic     {arithmetic.name} on {arithmetic.device}",
            f"disk           checkpoints and model up to {_size(room.needed)}, "
            f"{_size(room.free)} free",
        ]
        section.figures = {
            "parameters": num_parameters,
            "state_bytes": held,
            "precision": arithmetic.name,
            "device": str(arithmetic.device),
            "disk": dataclasses.asdict(room),
        }
        section.found = room.faults(self._config.run_dir)
        return section

    def _training(
        self,
        kept_share: float,
        mean_tgt: float,
        samples: Sequence[Sequence[survey_pairs.Pair]],
        tokenizer_dir: Path | None,
        rates: list[findings.Finding],
    ) -> Section:
        section, config = Section("training", found=rates), self._config
        num_pairs = sum(self._pairs[name].num_pairs for name in self._train if name in self._pairs)
        extent = probe.extent_of(config, num_pairs, kept_share, mean_tgt)
        section.figures = dataclasses.asdict(extent)
        section.found += probe.limit_findings(config, extent)
        section.lines.append(
            f"an epoch       about {extent.epoch_pairs:,} pairs, {extent.epoch_tokens:,} target "
            f"tokens, {extent.epoch_batches:,} updates"
        )
        if extent.updates is not None:
            epochs = extent.updates / extent.epoch_batches
            section.lines.append(
                f"the limit      {extent.limit}: {extent.updates:,} updates, {epochs:.1f} epochs"
            )
        else:
            section.lines.append(f"the limit      {extent.limit}")
        if self._with_probe and tokenizer_dir is not None:
            self._probe(section, extent, mean_tgt, samples, tokenizer_dir)
        return section

    def _probe(
        self,
        section: Section,
        extent: probe.Extent,
        mean_tgt: float,
        samples: Sequence[Sequence[survey_pairs.Pair]],
        tokenizer_dir: Path,
    ) -> None:
        part = probe.pairs_for_probe(self._config, mean_tgt) / sum(map(len, samples))
        texts = tokenizer_dir.with_name("probe")
        texts.mkdir()
        fewer = [_evenly(sample, max(1, math.floor(1 / part))) for sample in samples]
        config = probe.sampled_config(self._config, fewer, texts)
        try:
            measured = probe.probe(config, tokenizer_dir, self._arithmetic)
        except (MemoryError, RuntimeError) as error:
            if not memory.is_exhausted(error):
                raise
            what, advice = "a batch does not fit into memory", "Set training.max_device_tokens."
            section.found.append(findings.Finding("error", "training.batch_tokens", what, advice))
            return
        except errors.NMTError as error:
            section.found.append(findings.of_error("training", error))
            return
        section.figures["probe"] = dataclasses.asdict(measured)
        section.lines += probe.describe(self._config, extent, measured)
        section.found += probe.memory_findings(measured, self._arithmetic.device)

    def _run_folder(self) -> Section:
        run = self._outlook
        return Section(
            "run folder",
            [f"{self._config.run_dir:<14} {run.describe()}"],
            {"run_dir": self._config.run_dir, "action": run.action, "update": run.update},
            run.found,
        )


def _show_pairs(name: str, survey: survey_pairs.PairSurvey, section: Section) -> None:
    compared = ""
    if survey.num_compared < survey.num_pairs:
        compared = f", {survey.num_compared:,} of them compared (by a checksum of the source)"
    section.lines.append(f"{name:<14} {survey.num_pairs:>12,} pairs{compared}")
    section.figures[name] = {"pairs": survey.num_pairs, "compared": survey.num_compared}
    section.found += survey.faults()


def _evenly(pairs: Sequence[survey_pairs.Pair], step: int) -> list[survey_pairs.Pair]:
    """Returns every so many-th pair; one at least of those that there are."""
    return list(pairs[::step])


def _parts(number: int, limit: int) -> int:
    """Returns into how many parts a number has to be cut so that none is above the limit."""
    return max(1, -(-number // limit))


def _size(number: int) -> str:
    """Returns bytes in words."""
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"
