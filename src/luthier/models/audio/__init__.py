"""Models that hear: classes, letters or words of a sound."""
