"""Starting from a model folder instead of from random weights (`training.init_from`)."""

import logging
from pathlib import Path

from nmt import errors
from nmt.checkpoint import folder, weights
from nmt.config import loading, schema
from nmt.models import seq2seq

logger = logging.getLogger(__name__)

# Of the tokenizer's settings those that shape the training text alone.
_SAMPLING = frozenset({"sampling", "sampling_alpha", "sampling_nbest"})


def completed(config: schema.Config, earlier: schema.Config | None) -> schema.Config:
    """Returns the configuration with what a run takes over from `training.init_from`.

    That is the tokenizer, but not how training samples its pieces where the configuration says that, and,
    if it says nothing about the model, the model.

    Args:
        config: what the user wants.
        earlier: what the run was started with, if it goes on; the folder may be gone by then.

    Raises:
        errors.ConfigError: the configuration wants another tokenizer, or does not go with this one.
        errors.ModelError: the folder holds no model.
    """
    init_from = config.training.init_from
    if init_from is None:
        return config
    theirs = earlier
    if theirs is None:
        path = Path(init_from)
        theirs = loading.parse(folder.read_config(path), str(path / folder.CONFIG))
    other = [
        f"{key} {getattr(config.tokenizer, key)!r}"
        for key in sorted(config.tokenizer.model_fields_set - _SAMPLING)
        if getattr(config.tokenizer, key) != getattr(theirs.tokenizer, key)
    ]
    if other:
        raise errors.ConfigError(
            f"tokenizer: is not the one of training.init_from, {init_from}, whose weights know no "
            f"other (given: {', '.join(other)}). Remove the section tokenizer."
        )
    sampling = {key: getattr(config.tokenizer, key) for key in _SAMPLING}
    own = {key: sampling[key] for key in _SAMPLING & config.tokenizer.model_fields_set}
    changes: dict[str, object] = {"tokenizer": theirs.tokenizer.model_copy(update=own)}
    if not config.model.model_fields_set:
        changes["model"] = theirs.model
        changes["plugins"] = tuple(dict.fromkeys([*config.plugins, *theirs.plugins]))
    whole = config.model_copy(update=changes)
    # What was taken over has to go with the rest, as if it had stood there.
    loading.parse(loading.dump(whole), f"{config.run_dir}, begun from {init_from}")
    return whole


def load_weights(config: schema.Config, model: seq2seq.Seq2Seq) -> None:
    """Gives a fresh model the weights of `training.init_from`, if there is one.

    Args:
        config: of the run.
        model: the bare model, as the configuration describes it.

    Raises:
        errors.ModelError: the folder is damaged; or tensors do not fit, all of which are listed.
    """
    init_from = config.training.init_from
    if init_from is None:
        return
    stored = folder.read(Path(init_from))
    weights.load_into(model, stored.tensors, f"training.init_from: {init_from}")
    logger.info("weights of %s, update %d", init_from, stored.manifest.update)
