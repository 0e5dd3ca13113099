"""`nmt inspect`: what is in a model folder."""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from nmt.checkpoint import averaging, folder, resume
from nmt.config import loading as config_loading
from nmt.config import schema
from nmt.inference import loading
from nmt.runtime import characters


def run(args: argparse.Namespace) -> int:
    """Prints what a model folder holds, after checking every file.

    Args:
        args: `model` (a folder, or None for the default), `json`.

    Returns:
        0.
    """
    path = loading.find_model([args.model] if args.model else None)[0]
    content = describe(path)
    if args.json:
        print(characters.printable(json.dumps(content, indent=1, ensure_ascii=False)))
        return 0
    width = max(len(name) for name in content)
    for name, value in content.items():
        print(characters.printable(f"{name:<{width}}  {value}"))
    return 0


def describe(path: Path) -> dict[str, Any]:
    """Returns what a model folder holds, by name.

    Raises:
        errors.ModelError: a file is missing, torn or altered.
    """
    stored = folder.read(path)
    config = config_loading.parse(stored.config_text, str(path / "config.yaml"))
    texts = loading.load_texts(path)
    manifest = stored.manifest
    return {
        "folder": str(path),
        "languages": _languages(config.data),
        "encoder": _options(config.model.encoder.model_dump()),
        "decoder": _options(config.model.decoder.model_dump()),
        "parameters": sum(math.prod(tensor.shape) for tensor in stored.tensors.values()),
        "tokenizer": _kinds(config.tokenizer),
        "vocabulary": f"{len(texts.src.vocab)} source, {len(texts.tgt.vocab)} target pieces"
        + (", shared" if config.tokenizer.is_shared else ""),
        "update": manifest.update,
        "validation": dict(manifest.scores),
        "optimized": dict(manifest.optimized) or "not yet, see `nmt optimize`",
        "checkpoints": sorted({*resume.updates(path), *averaging.snapshot_updates(path)}),
        "versions": dict(manifest.versions),
        "files": {name: entry.size for name, entry in manifest.files.items()},
    }


def _options(options: dict[str, Any]) -> str:
    name = options.pop("type")
    return f"{name} (" + ", ".join(f"{key} {value}" for key, value in options.items()) + ")"


def _languages(data: schema.DataConfig) -> str:
    """Returns `en -> de`, or each pair of a model with tags."""
    pairs = {" -> ".join(data.pair_of(entry)): None for entry in data.train}
    if data.languages:
        return f"{', '.join(pairs)}; tags for {', '.join(data.languages)}"
    return f"{data.src_lang} -> {data.tgt_lang}"


def _kinds(settings: schema.TokenizerConfig) -> str:
    """Returns the kind of pieces, or those of both sides where they differ."""
    if settings.is_ready:
        return "ready model"
    if settings.tgt_type in {None, settings.type}:
        return settings.type
    return f"{settings.type} (source), {settings.tgt_type} (target)"
