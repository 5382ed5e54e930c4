"""Finished runs in use: combined, switched, put to benchmarks."""
