"""Photo search: folders are remembered as vectors, and found again by text or photo. `index.Index` is the way in."""
