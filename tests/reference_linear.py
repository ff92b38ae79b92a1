"""Linear recurrences in float64 NumPy, straight from the papers and without the package."""

REFERENCES = {}
"""By the name of the cell."""

OPTIONS = {}
"""The options of a factory that make different cells, by the registered name."""

CASE_OPTIONS = {}
"""What a `Case` of a cell needs beside its reference, by the name of the cell."""
