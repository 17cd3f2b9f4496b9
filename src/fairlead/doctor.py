"""What `fairlead doctor` looks at: this machine and this installation.

Knows: supported versions, devices, memory, disks, and the remedies of well-known troubles.
Does not know: recipes, models.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["Finding", "examine"]

_GIB = 2**30
_PYTHON = ((3, 11), (3, 14))
_OPTIONAL = {
    "ray": "several processes or machines (`runtime.backend: ray`)",
    "vllm": "sampling with vLLM on a GPU (`runtime.sampler: vllm`)",
    "math-verify": "the rewards `math` and `cosine-verifier`",
    "jsonschema": "schemas of the reward `json`",
    "numba": "sampling in bfloat16 on a processor, faster (the extra `fast`)",
    "tensorboard": "metrics in TensorBoard",
    "wandb": "the tracker wandb",
    "trackio": "the tracker trackio",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    state: Literal["ok", "note", "broken"]
    message: str
    remedy: str = ""


def examine(runs: Path) -> list[Finding]:
    """Look at everything; `runs` is the folder in which runs will be written."""
    return [*_python(), *_packages(), *_torch(), *_memory(), *_disk(runs), *_shared_memory(), *_environment()]


def _python() -> Iterator[Finding]:
    low, high = _PYTHON
    version = platform.python_version()
    if low <= sys.version_info[:2] < high:
        yield Finding("python", "ok", version)
    else:
        wanted = f">={low[0]}.{low[1]},<{high[0]}.{high[1]}"
        yield Finding(
            "python", "broken", f"{version}, supported is {wanted}", "make a virtual environment with another Python"
        )


def _packages() -> Iterator[Finding]:
    for name, wanted in _requirements():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "broken", f"not installed (wanted {wanted})", f'pip install "{name}{wanted}"')
            continue
        if _at_least(version, wanted):
            yield Finding(name, "ok", version)
        else:
            yield Finding(name, "broken", f"{version}, supported is {wanted}", f'pip install "{name}{wanted}"')
    for name, purpose in _OPTIONAL.items():
        try:
            yield Finding(name, "ok", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "note", f"not installed; needed for {purpose}", f"pip install {name}")


def _requirements() -> list[tuple[str, str]]:
    """Name and lower bound of what the package says that it needs."""
    try:
        lines = importlib.metadata.requires("fairlead") or []
    except importlib.metadata.PackageNotFoundError:  # run from a source tree that is not installed
        file = Path(__file__).parents[2] / "pyproject.toml"
        lines = tomllib.loads(file.read_text(encoding="utf-8"))["project"]["dependencies"] if file.is_file() else []
    found = []
    for line in lines:
        match = re.match(r"([A-Za-z0-9._-]+)\s*(>=[^;,\s]+)?", line)
        if match and "extra ==" not in line:
            found.append((match.group(1), match.group(2) or ""))
    return sorted(found)


def _at_least(version: str, wanted: str) -> bool:
    def numbers(text: str) -> list[int]:
        return [int(piece) for piece in re.findall(r"\d+", text.partition("+")[0])[:3]]

    return numbers(version) >= numbers(wanted)


def _torch() -> Iterator[Finding]:
    try:
        import torch

        from fairlead.runtime.machine import cpu_flags, usable_cores
    except Exception as error:
        yield Finding(
            "torch", "broken", f"cannot be imported: {error}", "install torch anew, for this machine's devices"
        )
        return
    smi = shutil.which("nvidia-smi") is not None
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        bfloat = "with" if torch.cuda.is_bf16_supported() else "without"
        yield Finding("devices", "ok", f"{', '.join(names)} ({bfloat} bfloat16)")
    elif smi:
        yield Finding(
            "devices",
            "note",
            f"this machine has nvidia-smi, but torch {torch.__version__} sees no GPU",
            "install the CUDA build of torch (https://pytorch.org/get-started) or check the driver with nvidia-smi",
        )
    else:
        yield Finding("devices", "ok", f"CPU ({platform.machine()}); no GPU is needed")
    flags = cpu_flags()
    fast = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "bf16") if flag in flags]
    if not flags or {"avx512_bf16", "amx_bf16", "bf16"} & flags:
        yield Finding("cpu", "ok", ", ".join(fast) or "features unknown")
    else:
        yield Finding(
            "cpu",
            "note",
            f"no bfloat16 arithmetic ({', '.join(fast) or 'no AVX2'}): precision bfloat16 works, but is far slower than float32 here",
            "leave `runtime.precision` at auto or float32",
        )
    cores, threads = usable_cores(), torch.get_num_threads()
    if threads < cores // 2 or threads > cores:
        yield Finding(
            "threads",
            "note",
            f"torch uses {threads} threads on {cores} cores",
            f"set `runtime.threads={cores}`, or take OMP_NUM_THREADS out of the environment",
        )
    else:
        yield Finding("threads", "ok", f"{threads} on {cores} cores")


def _memory() -> Iterator[Finding]:
    try:
        text = Path("/proc/meminfo").read_text(encoding="utf-8")
    except OSError:
        return
    kilobytes = {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+) kB$", text, flags=re.MULTILINE)}
    total, free = (kilobytes.get(name, 0) * 1024 / _GIB for name in ("MemTotal", "MemAvailable"))
    if free < 2:
        yield Finding(
            "memory",
            "note",
            f"{free:.1f} of {total:.1f} GiB free; the quickstart needs about 2",
            "close other programs, or lower tokens_per_microbatch and batch_size",
        )
    else:
        yield Finding("memory", "ok", f"{free:.1f} of {total:.1f} GiB free")


def _disk(runs: Path) -> Iterator[Finding]:
    place = next(path for path in (runs.absolute(), *runs.absolute().parents) if path.exists())
    if not os.access(place, os.W_OK):
        yield Finding("disk", "broken", f"{place} cannot be written to", "run elsewhere, or name a folder with --out")
        return
    free = shutil.disk_usage(place).free / _GIB
    if free < 0.2:
        yield Finding(
            "disk", "broken", f"{free:.2f} GiB free at {place}", "make room, or name another folder with --out"
        )
    elif free < 2:
        yield Finding("disk", "note", f"{free:.1f} GiB free at {place}", "checkpoints of larger models may not fit")
    else:
        yield Finding("disk", "ok", f"{free:.0f} GiB free at {place}")


def _shared_memory() -> Iterator[Finding]:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return
    size = shutil.disk_usage(folder).total / _GIB
    if size < 1:
        yield Finding(
            "shared memory",
            "note",
            f"/dev/shm has {size:.2f} GiB; Ray moves its objects through it and becomes slow below 1",
            "in a container: start it with --shm-size=4g",
        )
    else:
        yield Finding("shared memory", "ok", f"{size:.1f} GiB")


def _environment() -> Iterator[Finding]:
    root = os.environ.get("FAIRLEAD_DATA")
    if root is None:
        yield Finding("FAIRLEAD_DATA", "ok", "not set; relative data paths start at the working directory")
    elif Path(root).is_dir():
        yield Finding("FAIRLEAD_DATA", "ok", root)
    else:
        yield Finding(
            "FAIRLEAD_DATA", "broken", f"{root} is not a folder", "set it to the folder of your data sets, or unset it"
        )
    parallel = os.environ.get("TOKENIZERS_PARALLELISM")
    if parallel is None:
        yield Finding("TOKENIZERS_PARALLELISM", "ok", "not set")
    elif parallel.lower() in ("true", "1", "on", "yes"):
        yield Finding(
            "TOKENIZERS_PARALLELISM",
            "note",
            f"{parallel}: tokenizer threads and forked workers may block each other",
            "unset it, or set it to false",
        )
    else:
        yield Finding("TOKENIZERS_PARALLELISM", "ok", parallel)
