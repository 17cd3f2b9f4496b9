"""Measuring how fast a step is, and how far from what the machine can do."""

from fairlead.bench.command import bench
from fairlead.bench.measure import BenchError, Job, Measurement, machine, measure, measure_apart
from fairlead.bench.models import SIZES, word, word_tokenizer, write_model, write_scalar_model
from fairlead.bench.roof import Demand, ModelCost, Roof, demands, measure_roof
from fairlead.bench.rows import ROWS, Row, Work, write_prompts

__all__ = [
    "ROWS",
    "SIZES",
    "BenchError",
    "Demand",
    "Job",
    "Measurement",
    "ModelCost",
    "Roof",
    "Row",
    "Work",
    "bench",
    "demands",
    "machine",
    "measure",
    "measure_apart",
    "measure_roof",
    "word",
    "word_tokenizer",
    "write_model",
    "write_prompts",
    "write_scalar_model",
]
