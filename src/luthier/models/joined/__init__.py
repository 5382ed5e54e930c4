"""Towers joined into one model: composed ones, and those that compare two vectors."""
