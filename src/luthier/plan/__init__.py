"""What a run will take, told before anything is spent: memory by part, time, disk, and what would make it fit."""
