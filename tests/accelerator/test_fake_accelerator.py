"""Every model walks an update and a search on an accelerator that is not there.

The walk has a process of its own, since the device it makes up cannot be taken back.
"""

import json
import subprocess
import sys
from pathlib import Path

WALK = Path(__file__).with_name("walk.py")


def walk(models: dict, *flags: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(WALK), json.dumps(models), *flags],
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_model_walks_an_update_and_a_search(variants):
    models = {name: {"encoder": pair[0], "decoder": pair[1]} for name, pair in variants.items()}
    done = walk(models)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == list(models)


def test_a_tensor_that_is_left_on_the_host_is_found(variants):
    encoder, decoder = variants["transformer-transformer"]
    done = walk({"stray": {"encoder": encoder, "decoder": decoder}}, "--stray")
    assert done.returncode == 1
    assert "FakeTensorDeviceMismatchError" in done.stderr
