"""A file a tab: what is on it and what its buttons do."""
