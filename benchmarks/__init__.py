"""Ours and the BLIP classes of `transformers` side by side: same weights, same photos, equal outputs, one process."""
