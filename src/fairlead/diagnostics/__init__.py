"""Diagnostics: what is measured while a policy learns."""

from fairlead.diagnostics.base import Diagnostic

__all__ = ["Diagnostic"]
