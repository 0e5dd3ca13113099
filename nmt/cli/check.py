"""`nmt check`: what is wrong with a configuration and its data, and what the run would cost."""

import argparse
import contextlib
import json
import logging
from collections.abc import Iterator

from nmt.config import loading
from nmt.data import findings
from nmt.runtime import device as devices
from nmt.runtime import memory
from nmt.training import initial, outlook, survey, watching


def run(args: argparse.Namespace) -> int:
    """Reports all that can be known before training; writes nothing.

    Args:
        args: `config`, `set`, `no_probe`, `json`, `device`, `precision`, `threads`, `quiet`.

    Returns:
        0 if `nmt train` would run, be it with warnings; 1 where the data, 2 where the configuration
        would stop it.
    """
    overrides = list(args.set or [])
    flags = {"device": args.device, "training.precision": args.precision, "threads": args.threads}
    overrides += [f"{key}={value}" for key, value in flags.items() if value is not None]
    config = loading.load(args.config, overrides)
    # A run that goes on needs the folder that it was begun from no more.
    earlier = None if config.training.init_from is None else outlook.earlier_config(config)
    config = initial.completed(config, earlier)
    arithmetic = devices.training_arithmetic(
        config.training.precision, devices.resolve(config.device)
    )
    devices.set_up(arithmetic.device, config.threads)
    memory.check_limit(config.training.memory_limit, arithmetic.device)
    watching.check(config.training.loggers)
    found: list[findings.Finding] = []
    figures = {}
    with _silence():
        for section in survey.Survey(config, arithmetic, with_probe=not args.no_probe).sections():
            found += section.found
            figures[section.name.replace(" ", "_")] = section.figures
            if not args.json:
                _show(section, quiet=args.quiet)
    counts = {
        severity: sum(finding.severity == severity for finding in found)
        for severity in ("error", "warning", "note")
    }
    if args.json:
        content = {"counts": counts, "findings": [finding.to_json() for finding in found]}
        print(json.dumps({**content, **figures}, indent=1, ensure_ascii=False))
    elif not args.quiet:
        print(", ".join(f"{count} {name}{'s' * (count != 1)}" for name, count in counts.items()))
    return max((f.exit_code for f in found if f.severity == "error"), default=0)


def _show(section: survey.Section, *, quiet: bool) -> None:
    """Prints a section at once, since the next one may take a while."""
    if not quiet:
        print(f"{section.name.capitalize()}", *(f"  {line}" for line in section.lines), sep="\n")
    for finding in section.found:
        if not quiet or finding.severity != "note":
            print(finding.render())
    if not quiet:
        print(flush=True)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps back what training would say of its progress: here it is about a sample."""
    root = logging.getLogger("nmt")
    before = root.level
    root.setLevel(logging.WARNING)
    try:
        yield
    finally:
        root.setLevel(before)
