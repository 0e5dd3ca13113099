"""`nmt report`: what runs have done, in one file that can be sent to somebody."""

import argparse
import dataclasses
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from nmt import errors
from nmt.cli import report_flags, runs
from nmt.evaluation import documents, events, pages
from nmt.runtime import characters, files

logger = logging.getLogger(__name__)

# Of each kind.
NUM_SENTENCES = 10

# Charts: the kind of event, the number in it, the title, and whether its axis is logarithmic.
CHARTS = (
    ("validation", "bleu", "Validation BLEU", False),
    ("validation", "chrf", "Validation chrF", False),
    ("validation", "perplexity", "Validation perplexity", True),
    ("train", "perplexity", "Training perplexity", True),
    ("train", "learning_rate", "Learning rate", False),
    ("train", "grad_norm", "Gradient norm", False),
    ("train", "tokens_per_second", "Target tokens per second", False),
    ("train", "memory_mib", "Peak memory, MiB", False),
    ("train", "padding", "Share of padding", False),
)


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run has left behind.

    Attributes:
        name: by which it is shown.
        folder: of the run.
        events: from its metrics.jsonl.
        config: all settings, as in the file.
    """

    name: str
    folder: Path
    events: events.Events
    config: dict[str, Any]


def run(args: argparse.Namespace) -> int:
    """Writes a report on runs.

    Args:
        args: `runs`, `output`, `format`, `no_translate`, `sentences`, `lines`, `device`, `threads`.

    Returns:
        0.
    """
    style = args.format or ("md" if str(args.output or "").endswith(".md") else "html")
    output = Path(args.output or f"report.{style}")
    report_flags.check_use(args)
    # Opened before the work: a place that cannot be written to says so at once.
    with files.atomic_write(output) as stream:
        stream.write(characters.printable(_made(args, style)).encode())
    logger.info("report: %s", output)
    return 0


def _made(args: argparse.Namespace, style: str) -> str:
    """Returns the report."""
    found = read(args.runs)
    sections = [
        documents.Section("Runs", [_overviews(found)]),
        documents.Section("Configuration", _configurations(found)),
        documents.Section("Learning curves", curves(found)),
    ]
    if not args.no_translate:
        # Imported here: who wants curves alone need not wait for torch.
        from nmt.cli import report_models

        sections += report_models.sections(
            [(one.name, one.folder) for one in found],
            num_sentences=args.sentences or NUM_SENTENCES,
            map_lines=args.lines or (),
            device=args.device or "auto",
            threads=args.threads,
        )
    document = documents.Document(", ".join(one.name for one in found), sections)
    render: Callable[[documents.Document], str] = (
        pages.to_html if style == "html" else pages.to_markdown
    )
    return render(document)


def read(folders: Sequence[str]) -> list[Run]:
    """Returns what runs have left behind, under names that differ.

    A run without events, and a model that no run has left, go along with others, and a warning says so.

    Raises:
        errors.DataError: a file is torn, or there is no event of any run.
        errors.FileError: there is no such folder, or no metrics.jsonl in any.
    """
    missing: list[errors.NMTError] = []
    found = [_read(Path(folder), missing) for folder in folders]
    if len(missing) == len(found):
        raise missing[0]
    for error in missing:
        logger.warning("%s", error)
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        found = [dataclasses.replace(one, name=str(one.folder)) for one in found]
    return found


def _read(folder: Path, missing: list[errors.NMTError]) -> Run:
    """Returns what a run has left; adds the reason to what is missing if that is no event."""
    if not folder.is_dir():
        raise errors.FileError(f"{folder}: is no folder. Name the folder of a run.")
    found = events.Events([], [], [])
    try:
        if (folder / events.NAME).exists():
            found = events.read(folder)
        else:
            files.check_readable(folder / events.NAME)
    except (events.NoEventError, errors.FileError) as error:
        missing.append(error)
    return Run(folder.resolve().name, folder, found, _config(folder))


def _config(folder: Path) -> dict[str, Any]:
    """Returns the settings of a run: those beside its model, or those of its newest checkpoint."""
    path = folder / "config.yaml"
    try:
        if path.exists():
            found = yaml.safe_load(path.read_text(encoding="utf-8"))
        else:
            newest = runs.newest_state(folder)
            if newest is None:
                return {}
            state = json.loads((newest / "state.json").read_text(encoding="utf-8"))
            found = yaml.safe_load(state["values"]["config"])
    except (OSError, ValueError, KeyError, yaml.YAMLError) as error:
        raise errors.DataError(f"{path}: cannot be read ({error}).") from error
    return found if isinstance(found, dict) else {}


def _overviews(found: Sequence[Run]) -> documents.Table:
    header = ["run", "state", "updates", "best validation", "minutes", "MB"]
    return documents.Table(
        header, [[one.name, *runs.row(runs.overview(one.folder))[1:6]] for one in found]
    )


def _configurations(found: Sequence[Run]) -> list[documents.Block]:
    flat = {one.name: dict(_flattened(one.config)) for one in found}
    keys = list(dict.fromkeys(key for values in flat.values() for key in values))
    blocks: list[documents.Block] = []
    if len(found) > 1:
        rows = [
            [key, *(values.get(key, "-") for values in flat.values())]
            for key in keys
            if key != "run_dir" and len({values.get(key, "-") for values in flat.values()}) > 1
        ]
        blocks.append(
            documents.Text("Settings in which the runs differ:" if rows else "No setting differs.")
        )
        if rows:
            blocks.append(documents.Table(["setting", *flat], rows))
    first = flat[found[0].name]
    rows = [[key, first[key]] for key in keys if key in first]
    summary = f"All settings of {found[0].name}"
    blocks.append(documents.Table(["setting", "value"], rows, summary))
    return blocks


def _flattened(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flattened(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
        for number, inner in enumerate(value):
            yield from _flattened(inner, f"{prefix}.{number}")
    else:
        yield prefix, json.dumps(value, ensure_ascii=False)


def curves(found: Sequence[Run]) -> list[documents.Block]:
    """Returns a chart for each number that a run has told of, and a table of rare events."""
    charts: list[documents.Block] = []
    for kind, name, title, is_logarithmic in CHARTS:
        told = {one.name: one.events.series(kind, name) for one in found}
        if any(told.values()):
            charts.append(documents.Chart(title, "updates", told, is_logarithmic))
    others = [
        [one.name, str(event["event"]), f"{event['update']:,}", json.dumps(_rest(event))]
        for one in found
        for event in one.events.others
    ]
    if others:
        charts.append(documents.Table(["run", "event", "update", "details"], others))
    return charts


def _rest(event: events.Event) -> events.Event:
    return {key: value for key, value in event.items() if key not in {"event", "update"}}
