"""Models beside the one that trains: its teacher, its reference, what judges and values its answers."""
