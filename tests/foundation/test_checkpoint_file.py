"""Checkpoints that are damaged, lie about themselves, or hold junk: one line each."""

import pickle
import re
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import train
from foundation.checkout import ROOT
from foundation.checkpoint_file import WEIGHTS_DIGEST_KEY, read_checkpoint, weights_digest
from foundation.errors import UserError

FIELDS = (
    *("epoch", "global_step", "pytorch-lightning_version", "state_dict", "loops", "callbacks"),
    *("optimizer_states", "lr_schedulers", "hparams_name", "hyper_parameters"),
    *("datamodule_hparams_name", "datamodule_hyper_parameters", "data", "activation", "seed"),
    *("config", "config_signature", WEIGHTS_DIGEST_KEY),
)


@pytest.fixture
def best(tiny_run: Path) -> Path:
    return tiny_run / "checkpoints" / "best.ckpt"


@pytest.fixture
def altered(best: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the checkpoint with other fields, or what a function makes of it."""

    def make(change: Callable[[dict[str, Any]], Any] | None = None, **fields: Any) -> Path:
        checkpoint = torch.load(best, weights_only=True)
        checkpoint.update(fields)
        if change is not None:
            change(checkpoint)
        path = tmp_path / "altered.ckpt"
        torch.save(checkpoint, path)
        return path

    return make


@pytest.fixture
def repacked(best: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the checkpoint whose records a function has changed, packed as it says."""

    def make(change: Callable[[dict[str, bytes]], Any], packing: int = zipfile.ZIP_STORED) -> Path:
        with zipfile.ZipFile(best) as archive:
            records = {name: archive.read(name) for name in archive.namelist()}
        change(records)
        path = tmp_path / "repacked.ckpt"
        with zipfile.ZipFile(path, "w", packing) as archive:
            for name, content in records.items():
                archive.writestr(name, content)
        return path

    return make


def refusal(path: Path) -> str:
    """The line that refuses a checkpoint."""
    with pytest.raises(UserError) as error:
        read_checkpoint(path)
    line = str(error.value)
    assert line.startswith(f"--ckpt_path {path}: ")
    assert "\n" not in line
    assert len(line) < 500 + len(str(path))
    return line


# What is whole.


def test_a_run_s_own_checkpoints_are_read(tiny_run: Path) -> None:
    for name in ("best", "last"):
        path = tiny_run / "checkpoints" / f"{name}.ckpt"
        expected = torch.load(path, weights_only=True)
        torch.testing.assert_close(read_checkpoint(path)["state_dict"], expected["state_dict"])


def test_a_checkpoint_with_its_weights_checksum_is_read(altered: Callable[..., Path]) -> None:
    path = altered(lambda c: c.update({WEIGHTS_DIGEST_KEY: weights_digest(c["state_dict"])}))
    assert len(read_checkpoint(path)[WEIGHTS_DIGEST_KEY]) == 64


# The checksum of weights.


@pytest.mark.parametrize(
    "weight",
    [
        torch.arange(6.0).reshape(2, 3),
        torch.arange(6).reshape(2, 3).to(torch.bfloat16),
        torch.arange(6).reshape(2, 3).to(torch.float8_e4m3fn),
        torch.tensor([[True, False]]),
        torch.tensor(3),
        torch.zeros(0, 3),
        torch.nn.Parameter(torch.ones(2)),
    ],
    ids=lambda weight: f"{weight.dtype}{list(weight.shape)}",
)
def test_every_bit_counts_for_the_checksum(weight: Tensor) -> None:
    digest = weights_digest({"a": weight})
    assert digest == weights_digest({"a": weight.detach().clone()})
    assert digest != weights_digest({"b": weight})
    assert digest != weights_digest({"a": weight.detach().unsqueeze(0)})
    if weight.numel():
        flat = weight.detach().clone().reshape(-1)
        flat.view(torch.uint8)[-1] ^= 1
        assert digest != weights_digest({"a": flat.reshape(weight.shape)})


def test_the_checksum_is_of_values_not_of_how_they_lie_in_memory() -> None:
    weight = torch.arange(12.0).reshape(3, 4)
    digest = weights_digest({"a": weight, "b": weight})
    assert digest == weights_digest({"b": weight, "a": weight.t().contiguous().t()})
    assert weights_digest({"a": weight}) != weights_digest({"a": weight.view(torch.int32)})


def test_other_weights_than_the_saved_ones_are_refused(altered: Callable[..., Path]) -> None:
    def change(checkpoint: dict[str, Any]) -> None:
        checkpoint[WEIGHTS_DIGEST_KEY] = weights_digest(checkpoint["state_dict"])
        next(iter(checkpoint["state_dict"].values())).view(-1)[0] += 1

    assert "checksum differs" in refusal(altered(change))


# Weights.


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number_is_named(altered: Callable[..., Path], value: float) -> None:
    def change(checkpoint: dict[str, Any]) -> None:
        name = [name for name, w in checkpoint["state_dict"].items() if w.is_floating_point()][3]
        checkpoint["state_dict"][name].view(-1)[-1] = value
        checkpoint[WEIGHTS_DIGEST_KEY] = weights_digest(checkpoint["state_dict"])
        change.name = name  # type: ignore[attr-defined]

    line = refusal(altered(change))
    assert change.name in line  # type: ignore[attr-defined]
    assert "NaN or infinity" in line


def test_a_name_of_a_weight_cannot_write_to_the_terminal(altered: Callable[..., Path]) -> None:
    hostile = "\x1b]0;title\x07\x1b[2Jlayer\nnext"
    path = altered(state_dict={hostile: torch.tensor([float("nan")])})
    assert refusal(path).isprintable()


# Damage.


def test_a_flipped_bit_is_found_or_changes_nothing(best: Path, tmp_path: Path) -> None:
    content = best.read_bytes()
    good = read_checkpoint(best)
    path = tmp_path / "flipped.ckpt"
    found = 0
    for place in range(20):
        flipped = bytearray(content)
        flipped[len(content) * place // 20 + 11] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            checkpoint = read_checkpoint(path)
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017
            found += 1
        else:
            torch.testing.assert_close(checkpoint["state_dict"], good["state_dict"], rtol=0, atol=0)
            assert checkpoint["config"] == good["config"]
    assert found > 10  # the others lie between the records


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(best: Path, tmp_path: Path, share: float) -> None:
    path = tmp_path / "half.ckpt"
    content = best.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refusal(path)


# Claims.


def test_packed_records_are_refused(repacked: Callable[..., Path]) -> None:
    bomb = repacked(lambda records: records, zipfile.ZIP_DEFLATED)
    assert "claim more than the file holds" in refusal(bomb)


def test_two_records_of_one_name_are_refused(best: Path, tmp_path: Path) -> None:
    path = tmp_path / "twice.ckpt"
    path.write_bytes(best.read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        name = archive.namelist()[0]
        archive.writestr(name.upper(), b"another")
    assert "claim more than the file holds" in refusal(path)


def test_a_tensor_that_claims_more_than_its_record_is_refused(
    repacked: Callable[..., Path],
) -> None:
    def shorten(records: dict[str, bytes]) -> None:
        name = max((n for n in records if "/data/" in n), key=lambda n: len(records[n]))
        records[name] = records[name][:8]

    assert re.search(r"claims [\d,]+ bytes, and the file holds 8", refusal(repacked(shorten)))


def test_few_bytes_that_are_shown_as_many_are_refused(altered: Callable[..., Path]) -> None:
    path = altered(state_dict={"weight": torch.zeros(1).expand(10**12)})
    assert "claims 1,000,000,000,000 values" in refusal(path)


class Makes:
    """Unpickled, it is a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


HUGE = 1 << 40
BOMBS: dict[str, Callable[[], bytes]] = {
    "a tensor without a storage": lambda: pickle.dumps(
        {"state_dict": Makes(torch.Tensor, HUGE)}, protocol=2
    ),
    "bytes": lambda: pickle.dumps({"state_dict": Makes(bytearray, HUGE)}, protocol=2),
    "a far place in the memo": lambda: b"\x80\x02Nr" + struct.pack("<I", 2**31) + b".",
    "a long text": lambda: b"\x80\x02X" + struct.pack("<I", 2**32 - 1) + b"short.",
    "bytes of protocol 5": lambda: b"\x80\x05\x96" + struct.pack("<Q", HUGE) + b"short.",
}

LIMITED = """
import resource, sys
from pathlib import Path
import foundation
from foundation.checkpoint_file import read_checkpoint
from foundation.errors import UserError

with open("/proc/self/status") as status:
    used = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), used + (256 << 20)))
for path in sys.argv[1:]:
    try:
        read_checkpoint(Path(path))
    except UserError as error:
        print(error)
    else:
        sys.exit(f"{path} was read")
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print("peak", peak)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_claims_of_gigabytes_take_no_memory(
    repacked: Callable[..., Path], altered: Callable[..., Path], tmp_path: Path
) -> None:
    paths = []

    def kept(name: str, path: Path) -> None:
        paths.append(path.rename(tmp_path / f"{name.replace(' ', '_')}.ckpt"))

    for name, bomb in BOMBS.items():
        content = bomb()

        def put(records: dict[str, bytes], content: bytes = content) -> None:
            records[next(n for n in records if n.endswith("/data.pkl"))] = content

        kept(name, repacked(put))
    # Zeros, packed a thousand times smaller than they are.
    zeros = bytes(64 << 20)
    kept("zip", repacked(lambda r: r.update({"best/data/0": zeros}), zipfile.ZIP_DEFLATED))
    # Records of a plain file that claim four gigabytes each, in the central directory.
    plain = repacked(lambda records: records).read_bytes()
    begin = plain.index(b"PK\x01\x02")
    sizes = struct.pack("<II", 0xF0000000, 0xF0000000)
    claiming = tmp_path / "directory.ckpt"
    claiming.write_bytes(plain[: begin + 20] + sizes + plain[begin + 28 :])
    paths.append(claiming)
    kept("expanded", altered(state_dict={"weight": torch.zeros(1).expand(10**12)}))

    command = [sys.executable, "-c", LIMITED, *map(str, paths)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stdout + process.stderr
    lines = process.stdout.splitlines()
    assert len(lines) == len(paths) + 1
    assert "memory" not in process.stdout.lower().replace("in_the_memo", "")


def test_code_is_refused(repacked: Callable[..., Path], tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    for function in (exec, eval, print):
        content = pickle.dumps({"state_dict": Makes(function, f"open({str(ran)!r}, 'w')")}, 2)

        def put(records: dict[str, bytes], content: bytes = content) -> None:
            records[next(n for n in records if n.endswith("/data.pkl"))] = content

        assert "would run code" in refusal(repacked(put))
    assert not ran.exists()


# Junk.


@pytest.mark.parametrize("field", FIELDS)
def test_junk_in_a_field_is_refused(altered: Callable[..., Path], field: str) -> None:
    junk: tuple[Any, ...] = (None, -1, 1.5, b"bytes", [1], {1: 2}, {"a": {"b": torch.ones(2)}})
    for value in junk:
        fits = {"hyper_parameters", "datamodule_hyper_parameters", "data", "callbacks", "loops"}
        if field in fits and isinstance(value, dict) and "a" in value:
            continue
        if field == WEIGHTS_DIGEST_KEY and value is None:
            continue
        line = refusal(altered(**{field: value}))
        assert field in line, value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("state_dict", {"weight": 3}),
        ("state_dict", {3: torch.ones(1)}),
        ("pytorch-lightning_version", "latest"),
        ("optimizer_states", [{"state": {}, "param_groups": 3}]),
        ("optimizer_states", [{"state": {0: [1]}, "param_groups": []}]),
        ("optimizer_states", [{"state": {}, "param_groups": [{"params": ["x", 1.5]}]}]),
        ("lr_schedulers", [3]),
        ("data", {"class_names": [1, 2]}),
        ("data", {"image_shape": [1, 28]}),
        ("data", {"image_shape": "large"}),
    ],
)
def test_junk_deeper_in_a_field_is_refused(
    altered: Callable[..., Path], field: str, value: Any
) -> None:
    assert field in refusal(altered(**{field: value}))


@pytest.mark.parametrize("value", [None, 3, [], "text", torch.ones(3)])
def test_a_file_that_holds_something_else_is_refused(tmp_path: Path, value: Any) -> None:
    torch.save(value, tmp_path / "else.ckpt")
    assert "state_dict" in refusal(tmp_path / "else.ckpt")


@pytest.mark.parametrize("field", ["epoch", "global_step", "pytorch-lightning_version"])
def test_a_missing_field_is_named(altered: Callable[..., Path], field: str) -> None:
    assert field in refusal(altered(lambda checkpoint: checkpoint.pop(field)))


# What only the run itself can tell.


def said(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The line that ends a command."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        train.main(list(args))
    assert stop.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "note:" not in line]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("field", FIELDS)
def test_junk_in_a_field_ends_a_command_with_a_line(
    altered: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    field: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = altered(**{field: 7.5})
    for command in ("test", "fit"):
        assert f"--ckpt_path {path}: its {field} is not" in said(
            capsys, command, f"--ckpt_path={path}"
        )
    assert list(tmp_path.iterdir()) == [path]


def _first(states: dict[str, Any], name: str) -> dict[str, Any]:
    return next(state for key, state in states.items() if key.startswith(name))


NESTED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "loop": lambda c: c["loops"]["fit_loop"]["epoch_progress"]["current"].update(completed="x"),
    "loops": lambda c: c["loops"].update(fit_loop={"epoch_progress": [3]}),
    "checkpoint": lambda c: _first(c["callbacks"], "ModelCheckpoint").update(best_k_models=7),
    "score": lambda c: _first(c["callbacks"], "ModelCheckpoint").update(best_k_models={"a": "b"}),
    "patience": lambda c: _first(c["callbacks"], "EarlyStopping").update(wait_count="x"),
    "summary": lambda c: c["callbacks"]["RunSummary"].update(best={"val/loss": "x"}),
    "seconds": lambda c: c["callbacks"]["RunSummary"].update(seconds=[1]),
    "speed": lambda c: _first(c["callbacks"], "Throughput").update(epochs=[1, "two"]),
    "images": lambda c: _first(c["callbacks"], "Throughput").update(images=[1]),
    "precision": lambda c: c["callbacks"]["ChosenPrecision"].update(precision="64-half"),
    "order": lambda c: c["FashionMNISTDataModule"].update(order_seed=torch.zeros(3)),
    "far order": lambda c: c["FashionMNISTDataModule"].update(order_seed=10**30),
    "groups": lambda c: c["optimizer_states"][0].update(param_groups=[]),
    "optimizers": lambda c: c.pop("optimizer_states"),
}


@pytest.mark.parametrize("kind", NESTED)
def test_junk_in_states_ends_with_a_line_and_nothing_is_trained(
    altered: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = altered(NESTED[kind])
    line = said(
        capsys, "fit", f"--ckpt_path={path}", "--trainer.max_epochs=2", f"--runs_dir={tmp_path}"
    )
    assert f"--ckpt_path {path}: " in line
    assert not list(tmp_path.glob("**/*.ckpt/*"))
    assert list(tmp_path.glob("**/*.ckpt")) == [path]
