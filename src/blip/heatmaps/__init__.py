"""Heat-maps of a match, caption or answer: `explain` computes them, `files` writes them into a folder."""
