"""Check of an installation: `report` describes it, `selftest` compares results with recorded ones."""
