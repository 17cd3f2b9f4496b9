"""Make the peer's own environment under benchmarks/.peers, once.

    python benchmarks/peers/install.py [--cpu-index]

`trl/` is a virtual environment with TRL 1.16. TRL removed its PPO trainer after 1.12, so `trl-ppo/` holds that version's
code alone; the PPO row puts it in front of the environment, whose other packages it shares.
"""

from __future__ import annotations

import argparse
import subprocess
import venv
from pathlib import Path

__all__ = ["PEERS", "install", "peer_python", "ppo_path"]

PEERS = Path(__file__).resolve().parent.parent / ".peers"
TORCH, TRL, TRL_WITH_PPO = "torch==2.13.0", "trl==1.16.*", "trl==1.12.*"
_CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def peer_python() -> Path:
    """The interpreter of the peer's environment."""
    return PEERS / "trl" / "bin" / "python"


def ppo_path() -> Path:
    """What goes in front of the path for the PPO trainer."""
    return PEERS / "trl-ppo"


def install(cpu_index: bool = False) -> None:
    """Install what is missing. `cpu_index` takes torch from PyTorch's index of CPU builds, where pip would bring CUDA."""
    marker = PEERS / "installed"
    if marker.exists():
        return
    venv.create(PEERS / "trl", with_pip=True)
    pip = [str(peer_python()), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, *(["--index-url", _CPU_INDEX] if cpu_index else []), TORCH], check=True)
    subprocess.run([*pip, TORCH, TRL], check=True)
    subprocess.run([*pip, "--no-deps", "--target", str(ppo_path()), TRL_WITH_PPO], check=True)
    marker.write_text("\n".join((TORCH, TRL, TRL_WITH_PPO)) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cpu-index",
        action="store_true",
        help="take torch from PyTorch's index of CPU builds, where pip would bring CUDA",
    )
    install(parser.parse_args().cpu_index)
    print(peer_python())
