"""Weights: which exist (`catalogue`), how they are named (`tables`, `keys`), stored (`files`) and placed (`load`).

Importing this package imports no torch; `catalogue` needs none either.
"""
