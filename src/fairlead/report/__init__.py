"""The report of a run, and runs side by side."""

from fairlead.report.compare import Comparison, compare_runs, write_comparison
from fairlead.report.page import write_report
from fairlead.report.summary import headline

__all__ = ["Comparison", "compare_runs", "headline", "write_comparison", "write_report"]
