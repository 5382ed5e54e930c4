"""Models that see: pictures alone, or pictures among words."""
