"""Tools that draw a run get its events, go on with it, and cannot stop it."""

import importlib.util
import logging
from pathlib import Path
from typing import ClassVar

import pytest

from nmt import errors
from nmt.training import watching

TRAIN = {"event": "train", "update": 3, "epoch": 0, "loss": 2.5, "tokens_per_second": 10}
VALID = {"event": "validation", "update": 4, "bleu": 12.5, "is_best": True, "note": "text"}


class Recorder(watching.Watcher):
    package = "json"
    seen: ClassVar[list[object]] = []

    def __init__(self, run_dir, config, update):
        self.seen.append(("begins", run_dir.name, config, update))

    def show(self, event):
        self.seen.append(watching.numbers(event))

    def close(self, *, failed):
        self.seen.append(f"closed, failed: {failed}")


class Failing(Recorder):
    package = "no_such_package"
    when = "show"

    def __init__(self, run_dir, config, update):
        if self.when == "begin":
            raise OSError("no\nnetwork")

    def show(self, event):
        raise OSError("no\nnetwork")

    def close(self, *, failed):
        raise AssertionError("it has gone")


@pytest.fixture
def tools(monkeypatch):
    Recorder.seen.clear()
    monkeypatch.setattr(watching, "WATCHERS", {"good": Recorder, "bad": Failing})


def test_events_go_to_all_as_numbers_by_kind(tools):
    with watching.Watchers(["good", "good"], Path("run"), {"seed": 1}, 0) as watchers:
        watchers.show(TRAIN)
        watchers.show(VALID)
    assert Recorder.seen == [
        ("begins", "run", {"seed": 1}, 0),
        {"train/epoch": 0, "train/loss": 2.5, "train/tokens_per_second": 10},
        {"validation/bleu": 12.5},
        "closed, failed: False",
    ]


def test_one_that_fails_is_told_of_once_and_the_others_go_on(tools, caplog):
    def fail():
        with watching.Watchers(["bad", "good"], Path("run"), {}, 0) as watchers:
            watchers.show(TRAIN)
            watchers.show(TRAIN)
            raise KeyError

    with caplog.at_level(logging.WARNING), pytest.raises(KeyError):
        fail()
    (message,) = caplog.messages
    assert message.startswith("training.loggers: bad has failed") and "no network" in message
    assert Recorder.seen[-1] == "closed, failed: True" and len(Recorder.seen) == 4


def test_one_that_cannot_begin_is_an_error_that_closes_the_others(tools, monkeypatch):
    monkeypatch.setattr(Failing, "when", "begin")
    with pytest.raises(errors.ConfigError, match=r"loggers: bad cannot begin \(no network\)"):
        watching.Watchers(["good", "bad"], Path("run"), {}, 0)
    assert Recorder.seen[-1] == "closed, failed: True"


def test_one_that_is_not_installed_is_named_with_its_extra(tools, tmp_path, monkeypatch):
    watching.check(["good"])
    with pytest.raises(errors.ConfigError, match=r"bad is not installed.*nmt-toolkit\[bad\]"):
        watching.check(["good", "bad"])
    # As W&B makes one where a run writes offline.
    (tmp_path / Failing.package).mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(errors.ConfigError, match="bad is not installed"):
        watching.check(["bad"])


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="needs tensorboard")
def test_tensorboard_shows_a_resumed_run_once(tmp_path):
    from tensorboard.backend.event_processing import event_accumulator

    def scalars():
        found = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
        found.Reload()
        return found.Scalars("train/loss")

    for begin, end in ((0, 6), (4, 8)):
        with watching.Watchers(["tensorboard"], tmp_path, {}, begin) as watchers:
            for update in range(begin + 1, end + 1):
                watchers.show({"event": "train", "update": update, "loss": update + begin / 10})
                watchers.flush()
                # Also of a run that is killed here.
                assert scalars()[-1].step == update
    shown = [(one.step, round(one.value, 1)) for one in scalars()]
    assert shown == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0), (5, 5.4), (6, 6.4), (7, 7.4), (8, 8.4)]


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="needs wandb")
def test_weights_and_biases_writes_offline_and_goes_on_under_its_id(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    ids = []
    for update in (0, 4):
        with watching.Watchers(["wandb"], tmp_path, {"seed": 7}, update) as watchers:
            watchers.show(TRAIN)
        ids.append((tmp_path / watching.WANDB_ID).read_text())
    assert ids[0] == ids[1]
    written = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert len(written) == 2
    assert all(b"train/loss" in path.read_bytes() for path in written)
    with watching.Watchers(["wandb"], tmp_path, {}, 0):
        pass
    assert (tmp_path / watching.WANDB_ID).read_text() != ids[0], "a run from nothing is another one"
