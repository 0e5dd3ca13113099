"""Named tensors on disk: safetensors, and nothing else."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn

from nmt import errors
from nmt.runtime import characters, files

# How files start that would be unpickled: torch's zip archive, a bare pickle, a legacy tar.
PICKLE_STARTS = (b"PK\x03\x04", b"PK\x05\x06", b"\x80")
TAR_MAGIC = (257, b"ustar")
# A safetensors file starts with eight bytes of length, which can be any, and its JSON header.
HEADER_START = (8, b"{")
NAMES_SHOWN = 20
RESTORE = "Run `nmt train` again, which restores it from a checkpoint, or copy the file again."


def module_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Returns all that has to be saved of a module, tied parameters once.

    Args:
        module: the bare model, not wrapped for distribution or compilation.

    Returns:
        Parameters (a tied one under its first name only) and persistent buffers by name; they
        share memory with the module.
    """
    persistent = module.state_dict().keys()
    buffers = {name: value for name, value in module.named_buffers() if name in persistent}
    return {**dict(module.named_parameters()), **buffers}


def serialize(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Returns the safetensors file of `tensors`: equal tensors give equal bytes.

    Args:
        tensors: dense tensors of any device and memory layout; names in any order.

    Returns:
        The file, without metadata. Tensors that share memory are written in full each.
    """
    copies: dict[str, torch.Tensor] = {}
    storages: set[int] = set()
    for name in sorted(tensors):
        copy = tensors[name].detach().to("cpu").contiguous()
        if copy.untyped_storage().data_ptr() in storages:
            copy = copy.clone()
        storages.add(copy.untyped_storage().data_ptr())
        copies[name] = copy
    return safetensors.torch.save(copies)


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Writes `tensors` to `path` at once or not at all.

    Args:
        path: the file; its folder exists.
        tensors: dense tensors of any device and memory layout.

    Raises:
        FileError: the file cannot be written.
    """
    data = serialize(tensors)
    with files.atomic_write(path) as stream:
        stream.write(data)


def load_tensors(path: Path, device: str | torch.device = "cpu") -> dict[str, torch.Tensor]:
    """Returns the tensors of a safetensors file, in memory of their own.

    They are copied out of the mapped file: torch's own memory is aligned, on which the last bits
    of a matrix product can depend, and a file that is replaced later cannot reach them.

    Args:
        path: the file.
        device: where the tensors go.

    Returns:
        The tensors, sorted by name.

    Raises:
        ModelError: the file is missing, torn, or a pickle.
        FileError: the file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(512)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise errors.ModelError(f"{path}: missing. {RESTORE}") from error
    except OSError as error:
        raise errors.FileError(f"{path}: cannot be read ({error.strerror}).") from error
    if _is_pickle(start):
        raise errors.ModelError(
            f"{path}: is a pickle, as torch.save writes them, and pickles are never loaded because "
            "they can run any code. Only safetensors files are read. "
            "Convert it with safetensors.torch.save_file where you trust it."
        )
    try:
        if characters.printable(str(path)) != str(path):
            # safetensors opens no file whose name is not UTF-8, but reads its bytes: no pickle either.
            found = safetensors.torch.load(path.read_bytes())
            return {name: found[name].to(device, copy=True) for name in sorted(found)}
        with safetensors.safe_open(path, framework="pt", device="cpu") as archive:
            names = sorted(archive.keys())
            return {name: archive.get_tensor(name).to(device, copy=True) for name in names}
    except safetensors.SafetensorError as error:
        raise errors.ModelError(
            f"{path}: torn, or not a safetensors file ({error}). {RESTORE}"
        ) from error
    except OSError as error:
        raise errors.FileError(f"{path}: cannot be read ({error}).") from error


def check_fit(
    expected: Mapping[str, Sequence[int]], found: Mapping[str, torch.Tensor], place: str
) -> None:
    """Checks that `found` has exactly the expected tensors.

    Args:
        expected: shape by name.
        found: tensor by name.
        place: where `found` comes from, for the message.

    Raises:
        ModelError: lists missing, unexpected and misshapen tensors together.
    """
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    misshapen = [
        f"{name} is {list(found[name].shape)} for {list(shape)}"
        for name, shape in expected.items()
        if name in found and list(found[name].shape) != list(shape)
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    given = "; ".join(f"{kind}: {_listing(names)}" for kind, names in kinds.items() if names)
    if given:
        raise errors.ModelError(
            f"{place}: the tensors do not fit the model ({given}). Every tensor has to fit. "
            "Use the config.yaml that they were trained with."
        )


def load_into(module: nn.Module, tensors: Mapping[str, torch.Tensor], place: str) -> None:
    """Copies `tensors` into a module, all or none of them.

    Args:
        module: the bare model; its device and dtypes stay.
        tensors: what `module_tensors` returned for a module of the same shape.
        place: where `tensors` come from, for the message.

    Raises:
        ModelError: a tensor is missing, unexpected or misshapen.
    """
    own = module_tensors(module)
    check_fit({name: value.shape for name, value in own.items()}, tensors, place)
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(tensors[name])


def _is_pickle(start: bytes) -> bool:
    """Returns whether a file that starts like this would be unpickled by torch."""
    if start[HEADER_START[0] :].startswith(HEADER_START[1]):
        return False
    return start.startswith(PICKLE_STARTS) or start[TAR_MAGIC[0] :].startswith(TAR_MAGIC[1])


def _listing(names: list[str]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN])
    rest = len(names) - NAMES_SHOWN
    return f"{shown} and {rest} more" if rest > 0 else shown
