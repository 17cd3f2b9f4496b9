"""Runs: directories, checkpoints, metrics, and what a person sees meanwhile."""

from fairlead.runs.files import RunError, atomic_folder, read_json, write_json, write_text
from fairlead.runs.metrics import append_json_lines, read_json_lines
from fairlead.runs.run import Interrupted, Run, StageRun, Stateful

__all__ = [
    "Interrupted",
    "Run",
    "RunError",
    "StageRun",
    "Stateful",
    "append_json_lines",
    "atomic_folder",
    "read_json",
    "read_json_lines",
    "write_json",
    "write_text",
]
