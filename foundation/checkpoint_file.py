"""A checkpoint's file, which may be somebody else's, or damaged.

What it claims is compared with what it holds before memory is taken for it, and what it holds with
what it should be before anything is done with it. Reading it runs no code.
"""

import hashlib
import io
import math
import pickle
import pickletools
import re
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from foundation.errors import UserError
from foundation.run_folder import CONFIG_KEY, SIGNATURE_KEY

WEIGHTS_DIGEST_KEY = "weights_sha256"  # in a checkpoint: of its state_dict

_INSTRUCTIONS = 1_000_000  # of the pickle; a checkpoint of a small network has some 2,000
_PICKLE_BYTES = 4_000_000  # tensors lie in records of their own
# What torch's own reader of plain data knows, too.
_OPCODES = {
    name
    for names in (
        "PROTO STOP GLOBAL NEWOBJ REDUCE BUILD MARK TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_TUPLE",
        "EMPTY_LIST EMPTY_DICT EMPTY_SET APPEND APPENDS SETITEM SETITEMS NONE NEWTRUE NEWFALSE",
        "BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINSTRING BINPERSID",
        "BINGET LONG_BINGET BINPUT LONG_BINPUT",
    )
    for name in names.split()
}
# Bytes per element of a storage.
_STORAGES = {
    **{f"torch {name}Storage": 1 for name in ("Byte", "Char", "Bool")},
    **{f"torch {name}Storage": 2 for name in ("Short", "Half", "BFloat16")},
    **{f"torch {name}Storage": 4 for name in ("Int", "Float")},
    **{f"torch {name}Storage": 8 for name in ("Long", "Double", "ComplexFloat")},
    "torch ComplexDoubleStorage": 16,
    "torch.storage UntypedStorage": 1,
}
_CONTAINERS = {
    "collections OrderedDict": OrderedDict,
    "collections Counter": Counter,
    "__builtin__ set": set,
    "builtins set": set,
}
_HARMLESS = ("torch._utils _rebuild_parameter", "torch Size", "torch device", "_codecs encode")
_VERSION = re.compile(r"\d{1,6}(\.\d{1,6})*((a|b|rc)\d{1,6})?(\.(post|dev)\d{1,6})?(\+[\w.]+)?")


class _UnfitError(Exception):
    """The reason for which a checkpoint is refused."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint on the CPU, without running any code it may hold.

    Raises:
        UserError: the file is missing, truncated, damaged, no checkpoint, or holds code; it claims
            more than it holds; a field is not what it should be; a weight is no number.
    """
    if not path.is_file():
        raise UserError(f"--ckpt_path {path}: there is no such file")
    try:
        _check_archive(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        _check_fields(checkpoint)
        _check_weights(checkpoint)
    except _UnfitError as error:
        raise UserError(f"--ckpt_path {path}: {error}") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"--ckpt_path {path}: refused, because loading it would run code, or it is no "
            "checkpoint of PyTorch; use one that train.py fit wrote"
        ) from error
    except Exception as error:  # of whatever somebody else's bytes lead to
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(
            f"--ckpt_path {path}: truncated or not a checkpoint ({reason}); "
            "use another one of the run, or fit again"
        ) from error
    return checkpoint


def weights_digest(state_dict: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in the order of the names, as 64 hex digits.

    Args:
        state_dict: of a model; tensors on any device, of any dtype.
    """
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        weight = state_dict[name].detach()
        head = repr((name, str(weight.dtype), tuple(weight.shape)))
        digest.update(head.encode(errors="backslashreplace"))
        if weight.numel():
            flat = weight.cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(flat.numpy().data)
    return digest.hexdigest()


# What the file claims, before it is loaded.


def _check_archive(path: Path) -> None:
    """Refuse records that claim more than the file holds, or hold something else than written."""
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        folder = records[0].filename.partition("/")[0] if records else ""
        sizes = {record.filename: record.file_size for record in records}
        plain = all(
            record.compress_type == zipfile.ZIP_STORED
            and record.compress_size == record.file_size
            and record.header_offset + record.file_size <= size
            and record.filename.startswith(f"{folder}/")
            for record in records
        )
        names = {record.filename.casefold() for record in records}  # as torch compares them
        if not plain or archive.comment or len(names) < len(records) or sum(sizes.values()) > size:
            raise _UnfitError(
                "its records claim more than the file holds, or are packed in another way than "
                "PyTorch's; use one that train.py fit wrote"
            )
        content = f"{folder}/data.pkl"
        if content not in sizes:
            raise _UnfitError("no checkpoint of PyTorch; use one that train.py fit wrote")
        if sizes[content] > _PICKLE_BYTES:
            raise _UnfitError(
                f"its table of contents has {sizes[content]:,} bytes; expected at most "
                f"{_PICKLE_BYTES:,}"
            )
        if (damaged := archive.testzip()) is not None:
            raise _UnfitError(
                f"damaged: the checksum of {damaged} differs; use another one of the run"
            )
        for key, claimed in _claimed_storages(archive.read(content)).items():
            held = sizes.get(f"{folder}/data/{key}")
            if claimed != held:
                raise _UnfitError(
                    f"its tensor {key} claims {claimed:,} bytes, and the file holds {held or 0:,}; "
                    "use one that train.py fit wrote"
                )


def _claimed_storages(content: bytes) -> dict[str, int]:
    """The bytes that a pickle claims for each storage; nothing is loaded.

    Raises:
        pickle.UnpicklingError: it holds more than plain data and tensors.
    """
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content), 1):
        if opcode.name not in _OPCODES or count > _INSTRUCTIONS:
            raise pickle.UnpicklingError(opcode.name)
        if opcode.name in ("BINPUT", "LONG_BINPUT") and int(argument) > count:  # type: ignore[arg-type]
            raise pickle.UnpicklingError("a place far beyond the last one")  # would take memory
    claims = _Claims(io.BytesIO(content), encoding="latin1")
    claims.load()
    return claims.storages


class _Inert:
    """Stands for everything of torch's while claims are read."""

    def __new__(cls, *args: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Storage(_Inert):
    """Stands for a storage's type, of so many bytes per element, and for a storage."""

    def __init__(self, size: int) -> None:
        self.size = size


class _Claims(pickle.Unpickler):
    """Reads the skeleton of a checkpoint: numbers and texts, and no tensor."""

    def __init__(self, file: io.BytesIO, *, encoding: str) -> None:
        super().__init__(file, encoding=encoding)
        self.storages: dict[str, int] = {}

    @override
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        name = f"{module_name} {global_name}"
        if name in _STORAGES:
            return _Storage(_STORAGES[name])
        if name in ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3"):
            return _tensor
        if name in _HARMLESS:
            return _Inert
        if module_name == "torch" and isinstance(getattr(torch, global_name, None), torch.dtype):
            return _Inert()
        if name in _CONTAINERS:
            return _CONTAINERS[name]
        raise pickle.UnpicklingError(name)

    @override
    def persistent_load(self, pid: Any) -> _Storage:
        _, kind, key, _, count = pid
        if not isinstance(kind, _Storage) or not isinstance(key, str) or not _is_count(count):
            raise pickle.UnpicklingError("a storage that is none")
        size = count * kind.size
        if self.storages.setdefault(key, size) != size:
            raise _UnfitError(f"its tensor {key} has two sizes; use one that train.py fit wrote")
        return _Storage(size)


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> _Inert:
    """Refuse a tensor that shows its few bytes as many."""
    if not isinstance(storage, _Storage) or not all(map(_is_count, [offset, *shape, *stride])):
        raise pickle.UnpicklingError("a tensor that is none")
    if math.prod(shape) > storage.size:
        raise _UnfitError(
            f"a tensor claims {math.prod(shape):,} values, and its storage has {storage.size:,} "
            "bytes; use one that train.py fit wrote"
        )
    return _Inert()


def _is_seed(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**64


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


# What it holds, before anything is done with it.


def _check_fields(checkpoint: Any) -> None:
    """Refuse a field that Lightning or this project would trip over."""
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise _UnfitError("holds no state_dict; expected one that fit wrote")
    for name, (needed, fits, expected) in _FIELDS.items():
        if name not in checkpoint:
            if needed:
                raise _UnfitError(f"holds no {name}; expected one that fit wrote")
            continue
        if not fits(checkpoint[name]):
            kind = type(checkpoint[name]).__name__
            raise _UnfitError(
                f"its {name} is not {expected} (found: {kind}); use one that train.py fit wrote"
            )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _is_table_of_tables(value: Any) -> bool:
    return _is_table(value) and all(map(_is_table, value.values()))


def _is_list_of_tables(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_table, value))


def _is_weights(value: Any) -> bool:
    return _is_table(value) and all(
        isinstance(weight, Tensor) and weight.layout == torch.strided for weight in value.values()
    )


def _is_optimizer(value: Any) -> bool:
    groups, state = value.get("param_groups"), value.get("state")
    return (
        _is_list_of_tables(groups)
        and all(_is_parameters(group.get("params")) for group in groups)
        and isinstance(state, dict)
        and all(_is_parameter(key) and _is_table(of) for key, of in state.items())
    )


def _is_parameters(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_parameter, value))


def _is_parameter(value: Any) -> bool:
    return _is_count(value) or _is_text(value)  # a number, or with FSDP a name


def _is_data(value: Any) -> bool:
    """As :attr:`ImageDataModule.description` says it."""
    if not _is_table(value):
        return False
    names, shape = value.get("class_names", []), value.get("image_shape", [1, 1, 1])
    return (
        isinstance(names, list)
        and all(map(_is_text, names))
        and isinstance(shape, list)
        and len(shape) == 3
        and all(map(_is_count, shape))
        and _is_table(value.get("images", {}))
    )


# Whether it must be there, what it must be, and how that is called.
_FIELDS: dict[str, tuple[bool, Any, str]] = {
    "state_dict": (True, _is_weights, "names with tensors"),
    "epoch": (True, _is_count, "a number of epochs"),
    "global_step": (True, _is_count, "a number of steps"),
    "pytorch-lightning_version": (
        True,
        lambda value: _is_text(value) and _VERSION.fullmatch(value) is not None,
        "a version",
    ),
    "loops": (False, _is_table_of_tables, "names with tables"),
    "callbacks": (False, _is_table_of_tables, "names with tables"),
    "optimizer_states": (
        False,
        lambda value: _is_list_of_tables(value) and all(map(_is_optimizer, value)),
        "a list of optimizers' states",
    ),
    "lr_schedulers": (False, _is_list_of_tables, "a list of tables"),
    "hparams_name": (False, _is_text, "a name"),
    "hyper_parameters": (False, _is_table, "names with values"),
    "datamodule_hparams_name": (False, _is_text, "a name"),
    "datamodule_hyper_parameters": (False, _is_table, "names with values"),
    "MixedPrecision": (False, _is_table, "names with values"),
    "current_model_state": (False, _is_weights, "names with tensors"),
    "averaging_state": (False, _is_table, "names with values"),
    "data": (False, _is_data, "what the data is"),
    "activation": (False, _is_text, "a name"),
    "seed": (False, _is_seed, "a whole number"),
    CONFIG_KEY: (False, _is_text, "a text"),
    SIGNATURE_KEY: (False, _is_text, "a signature"),
    WEIGHTS_DIGEST_KEY: (False, _is_text, "a checksum"),
}


def _check_weights(checkpoint: dict[str, Any]) -> None:
    """Refuse weights that are not those that were saved, or no numbers."""
    weights: dict[str, Tensor] = checkpoint["state_dict"]
    saved = checkpoint.get(WEIGHTS_DIGEST_KEY)
    if saved is not None and saved != weights_digest(weights):
        raise _UnfitError(
            "damaged: its weights are not those that were saved, the checksum differs; "
            "use another one of the run, or fit again"
        )
    for name, weight in weights.items():
        if weight.is_floating_point() or weight.is_complex():
            if weight.element_size() == 1:  # of which torch cannot ask it
                weight = weight.float()
            if not bool(torch.isfinite(weight).all()):
                raise _UnfitError(
                    f"its weight {name} holds NaN or infinity; use another one of the run, "
                    "or fit again with a lower learning rate"
                )
