"""``compare``: several methods on the same rows, with what each cost, and which to take."""
