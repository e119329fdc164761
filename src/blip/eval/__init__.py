"""Measuring: a model's predictions on a data source, scored, with intervals; what `blip eval` and the tasks report."""

from blip.metrics.caption import score_captions

__all__ = ["score_captions"]
