"""Charts as inline SVG: lines, paths, stacked areas, bars with intervals, reliability.

Every function returns a `Drawing`: the SVG, and a legend for the page to set as text, so that it wraps on a phone. Hover values
travel in a `data-hover` attribute that the page's script reads; without the script the chart is complete as it stands.
"""

from fairlead.report.charts.bars import Bar, bar_chart, share_chart
from fairlead.report.charts.canvas import Drawing, Guide, Line
from fairlead.report.charts.lines import line_chart, path_chart, stacked_chart
from fairlead.report.charts.reliability import reliability_chart
from fairlead.report.charts.series import smooth

__all__ = [
    "Bar",
    "Drawing",
    "Guide",
    "Line",
    "bar_chart",
    "line_chart",
    "path_chart",
    "reliability_chart",
    "share_chart",
    "smooth",
    "stacked_chart",
]
