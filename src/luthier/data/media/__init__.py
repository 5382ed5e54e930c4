"""Pictures and sounds: as stored, as they are learned, as they are varied."""
