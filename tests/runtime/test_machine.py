"""What this machine is, and what follows from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fairlead.recipes import load_recipe
from fairlead.recipes.execute import execute
from fairlead.runs import Run
from fairlead.runtime import RuntimeSpec, machine


@pytest.mark.parametrize(
    ("flags", "precision"),
    [
        ({"avx2"}, "float32"),
        (set(), "float32"),
        ({"avx512f"}, "float32"),
        ({"avx512_bf16"}, "bfloat16"),
        ({"amx_bf16"}, "bfloat16"),
        ({"asimd", "bf16"}, "bfloat16"),
    ],
)
def test_auto_is_what_the_processor_does_in_hardware(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], precision: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine, "cpu_flags", lambda: flags)
    assert RuntimeSpec(precision="auto").settled().precision == precision
    assert RuntimeSpec(precision="bfloat16").settled().precision == "bfloat16"


@pytest.mark.parametrize("supported", [True, False])
def test_auto_on_a_gpu(monkeypatch: pytest.MonkeyPatch, supported: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: supported)
    assert RuntimeSpec(precision="auto").settled().precision == ("bfloat16" if supported else "float32")


def test_a_run_goes_on_with_the_precision_it_began_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`recipe.yaml` of the run says what `auto` was, so that another machine resumes with the same arithmetic."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "runtime: {precision: auto}\nstages: {tokenizer: {data: fairlead:starter/validation, vocabulary: 300}}\n"
    )
    seen: list[str] = []
    for flags in ({"amx_bf16"}, {"avx2"}):
        monkeypatch.setattr(machine, "cpu_flags", lambda flags=flags: flags)
        directory = tmp_path / "run"
        source = directory / "recipe.yaml" if directory.exists() else recipe
        seen.append(execute(load_recipe(str(source)), directory, quiet=True).runtime.precision)
    assert seen == ["bfloat16", "bfloat16"]
    assert Run(tmp_path / "by-hand", runtime=RuntimeSpec(precision="auto"), quiet=True).runtime.precision == "float32"
