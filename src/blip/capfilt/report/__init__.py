"""HTML report on the scores of a run: what a threshold keeps, and examples."""

from blip.capfilt.report.write import report

__all__ = ["report"]
