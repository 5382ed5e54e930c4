"""Answers of the model's own, made before the steps that learn from them."""
