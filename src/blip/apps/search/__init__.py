"""Photo search: folders are indexed as vectors and searched by text or photo. Start at `index.Index`."""
