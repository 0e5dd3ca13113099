"""What can be asked of a model when it translates."""

from nmt import errors
from nmt.config import schema
from nmt.models import base

# Settings that look at attention.
OF_ATTENTION = ("coverage_penalty", "alignments", "replace_unknown")


def check(model: base.Model, decoding: schema.DecodingConfig) -> None:
    """Finds out whether a model can translate with these settings.

    Args:
        model: trained or not.
        decoding: of its configuration, or of a line.

    Raises:
        errors.UsageError: it has no attention, or not so many positions.
    """
    max_positions = model.max_tgt_positions
    if max_positions is not None and decoding.min_length >= max_positions:
        raise errors.UsageError(
            f"decoding.min_length: this model has {max_positions} target positions "
            f"(given: {decoding.min_length}). Lower it."
        )
    for name in OF_ATTENTION:
        if getattr(decoding, name) and not model.attends:
            raise errors.UsageError(
                f"decoding.{name}: this model has no attention, which it needs. Remove it."
            )
