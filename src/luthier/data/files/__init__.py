"""Files to raw rows, each with the place that it came from."""
