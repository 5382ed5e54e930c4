"""Text and conversations as token ids, and which of them are supervised."""
