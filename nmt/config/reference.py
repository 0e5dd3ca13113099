"""The reference of all settings, generated: `python -m nmt.config.reference > docs/config.md`."""

import sys

import pydantic

from nmt.config import families, schema, sections

_HEAD = """\
# Configuration

Generated from the schema by `python -m nmt.config.reference > docs/config.md`; do not edit.

A configuration is one YAML file. `nmt init` writes one to start from, and `--set seed=2`
overrides any key. Every key has a default, except those marked *required*. Unknown keys, wrong
types, and settings that would be ignored are errors before any work starts. Relative paths are
relative to the working directory. Only `true` and `false` are booleans (`no` is Norwegian), and
`1e-3` is a number. Anchors (`&`, `*`, `<<`) work, tags (`!`) do not.
"""

_RESUMING = """\
## What a resumed run may change

The same command resumes a run bit for bit, so it refuses changes that would shape the weights or
their choice. What may change: `run_dir`, `device`, `threads`, the limits `training.max_updates`
(unless the schedule is cosine or linear, which end there, or a cooldown has begun), `max_epochs`,
`max_minutes` and `patience`, the intervals `training.logging_interval` and `checkpoint_interval`,
`training.keep_checkpoints`, `training.loggers`, `training.memory_limit`, `training.sharding`,
`data.cache_dir`, `data.num_workers`, all of `data.test` and `decoding`, and the paths of training and
validation corpora, whose content is compared by checksum.
"""


def render() -> str:
    """Returns the reference in Markdown."""
    parts = [_HEAD, _part("Top level", "", schema.Config)]
    for name, field in schema.Config.model_fields.items():
        section = sections.section_of(field)
        assert section is not None or name not in {"data", "model"}, "these are sections"
        if name == "data":
            parts += [
                _part("data", "data.", schema.DataConfig, _DATA),
                _part("data.train", "data.train.N.", schema.TrainCorpus, _TRAIN),
                _part("data.valid and data.test", "data.valid.", schema.Corpus, _VALID),
                _part("data.noise", "data.noise.", schema.NoiseConfig, _NOISE),
            ]
        elif section is not None:
            parts.append(_part(name, f"{name}.", section))
        if name == "model":
            parts += _families()
    parts.append(_RESUMING)
    return "\n".join(parts)


_DATA = "Besides these: the corpora `data.train`, `data.valid` and `data.test`, which follow.\n"
_TRAIN = (
    "A list; N counts from 0. An entry is two parallel files, one TSV, one JSONL or one text. A name may\n"
    "be a pattern such as `train.*.en.gz`, whose matches are read one after the other, sorted, or a URL\n"
    "such as `https://...` or `s3://...` (the extra `remote`).\n"
)
_VALID = """`data.valid` is required, `data.test` is not; both have the same keys. They may be lists, one
for each language pair, which are scored each on its own and by their mean. A test corpus is never
`mono`.
"""
_NOISE = "What is done to the text of `mono` corpora, in this order (docs/multilingual.md).\n"


def _families() -> list[str]:
    parts = []
    for family in families.BUILT_IN:
        for side in sections.SIDES:
            options = families.options_schema(family, side)
            note = f"{(options.__doc__ or '').strip()}\n"
            title = f"model.{side} of type {family}"
            parts.append(_part(title, f"model.{side}.", options, note))
    return parts


def _part(title: str, prefix: str, section: type[pydantic.BaseModel], note: str = "") -> str:
    lines = [f"## {title}", ""]
    lines += [note] if note else []
    lines += [
        "| key | type | default | unit | what it does | why |",
        "|---|---|---|---|---|---|",
    ]
    for knob in sections.knobs_of(section):
        default = "*required*" if knob.default is None else f"`{knob.default}`"
        cells = [f"`{prefix}{knob.key}`", knob.kind, default, knob.unit, knob.text, knob.why]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.stdout.write(render())
