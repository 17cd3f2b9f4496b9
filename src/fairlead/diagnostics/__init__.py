"""Diagnostics: what is measured while a policy learns."""

from fairlead.diagnostics.base import Diagnostic
from fairlead.diagnostics.filtration import FilterAgreement
from fairlead.diagnostics.similarity import Similarity

__all__ = ["Diagnostic", "FilterAgreement", "Similarity"]
