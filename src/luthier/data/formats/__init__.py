"""The formats of rows: what the columns of a row mean."""
