"""Numbers from predictions: pure functions of strings and arrays."""
