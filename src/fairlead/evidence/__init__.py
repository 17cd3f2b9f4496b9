"""Evidence: whether a method does here what its paper says, measured against a baseline and written down either way."""

from fairlead.evidence.base import AtMost, Better, EvidenceError, Experiment, Measurement, Rule
from fairlead.evidence.laboratory import Laboratory, Outcome
from fairlead.evidence.ledger import render_table, run_evidence

__all__ = [
    "AtMost",
    "Better",
    "EvidenceError",
    "Experiment",
    "Laboratory",
    "Measurement",
    "Outcome",
    "Rule",
    "render_table",
    "run_evidence",
]
