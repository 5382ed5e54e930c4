"""Files to rows, rows to examples, examples to batches."""
