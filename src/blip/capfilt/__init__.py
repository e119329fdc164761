"""CapFilt (BLIP paper section 3.3): caption images, score web and synthetic texts, select the pairs that match."""

from blip.capfilt.report import report
from blip.capfilt.run import run
from blip.capfilt.selection import select

__all__ = ["report", "run", "select"]
