"""Data for experiments and training.

`sources` draw input sequences: white noise, real text, real images, or the user's own file. A
`Task` draws sequences with targets, and has a loss, an error and a baseline. A `Problem` has its
data divided into training, validation and test, a loss, a metric and baselines: the applications.
"""

from rnn_jax.tasks.bits import delayed_xor, parity
from rnn_jax.tasks.chorales import chorales
from rnn_jax.tasks.classified_text import text_from_file, text_from_hub
from rnn_jax.tasks.digit_images import captions, classification
from rnn_jax.tasks.digit_lines import digit_lines
from rnn_jax.tasks.forecasting import forecasting, forecasts
from rnn_jax.tasks.language import load_text, next_symbols
from rnn_jax.tasks.long_dependencies import (
    adding,
    copy_memory,
    multiplication,
    random_permutation,
    temporal_order,
)
from rnn_jax.tasks.moving_digits import moving_digits
from rnn_jax.tasks.number_words import translation
from rnn_jax.tasks.pixels import pixel_digits
from rnn_jax.tasks.problem import Conditioned, Metric, Problem
from rnn_jax.tasks.reviews import reviews
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
from rnn_jax.tasks.speech import speech
from rnn_jax.tasks.stories import stories
from rnn_jax.tasks.task import Example, Task, of_varied_length, solved_after
from rnn_jax.tasks.text import next_character
from rnn_jax.tasks.time_series import Series, series, series_from_csv
from rnn_jax.tasks.vocabulary import Vocabulary

__all__ = [
    "Conditioned",
    "Example",
    "Metric",
    "Problem",
    "Series",
    "Source",
    "Task",
    "Vocabulary",
    "adding",
    "captions",
    "characters",
    "chorales",
    "classification",
    "copy_memory",
    "delayed_xor",
    "digit_lines",
    "digits",
    "forecasting",
    "forecasts",
    "from_file",
    "load_text",
    "moving_digits",
    "multiplication",
    "next_character",
    "next_symbols",
    "of_varied_length",
    "parity",
    "pixel_digits",
    "python_docs",
    "python_docs_text",
    "random_permutation",
    "reviews",
    "series",
    "series_from_csv",
    "solved_after",
    "source",
    "speech",
    "stories",
    "temporal_order",
    "text_from_file",
    "text_from_hub",
    "translation",
    "white_noise",
]
