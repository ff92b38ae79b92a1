"""Data for experiments and training.

`sources` draw input sequences: white noise, real text, real images, or the user's own file. A
`Task` draws sequences with targets, and has a loss, an error and a baseline.
"""

from rnn_jax.tasks.long_dependencies import adding, copy_memory, temporal_order
from rnn_jax.tasks.sources import (
    Source,
    characters,
    digits,
    from_file,
    python_docs,
    python_docs_text,
    source,
    white_noise,
)
from rnn_jax.tasks.task import Example, Task
from rnn_jax.tasks.text import next_character

__all__ = [
    "Example",
    "Source",
    "Task",
    "adding",
    "characters",
    "copy_memory",
    "digits",
    "from_file",
    "next_character",
    "python_docs",
    "python_docs_text",
    "source",
    "temporal_order",
    "white_noise",
]
