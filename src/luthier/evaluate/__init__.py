"""How good is it: outputs of a model on rows, metrics by the field's libraries, intervals by bootstrap."""
