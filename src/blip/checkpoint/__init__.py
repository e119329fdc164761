"""Weights: which exist (`catalogue`), how tensors are named (`tables`), read, written and loaded.

Importing this package imports no torch; `catalogue` and `locate` need none either.
"""
