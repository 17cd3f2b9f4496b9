"""Runs: directories, checkpoints, metrics, and what a person sees meanwhile."""

from fairlead.runs.files import RunError, read_json, write_json, write_text
from fairlead.runs.metrics import read_json_lines
from fairlead.runs.run import Interrupted, Run, StageRun, Stateful

__all__ = [
    "Interrupted",
    "Run",
    "RunError",
    "StageRun",
    "Stateful",
    "read_json",
    "read_json_lines",
    "write_json",
    "write_text",
]
