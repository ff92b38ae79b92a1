"""Data for experiments and training.

`sources` draw input sequences: white noise, real text, real images, or the user's own file.
"""

from rnn_jax.tasks.sources import (
    Source,
    characters,
    digits,
    from_file,
    python_docs,
    source,
    white_noise,
)

__all__ = [
    "Source",
    "characters",
    "digits",
    "from_file",
    "python_docs",
    "source",
    "white_noise",
]
