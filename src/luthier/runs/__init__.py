"""A run from its recipe to its folder, and a finished run in use. Conducts the other rooms; knows no mathematics."""
