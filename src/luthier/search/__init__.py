"""Search by meaning: documents cut into passages, an index of their vectors, exact search, passages put into rows.

An index holds entries and one vector for each, whatever an entry is; who makes the vectors is given by the caller
(``runs/finding/embedder.py`` for texts).
"""
