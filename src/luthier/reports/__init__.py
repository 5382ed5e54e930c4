"""What a run shows: its report, its model card, its progress in the terminal and its metrics."""
