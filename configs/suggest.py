"""Configuration of suggestions: which network, after which text."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The only variant."""
    config = ml_collections.ConfigDict()
    config.run = "runs/words"  # a run directory of experiments.train
    config.network = ""  # of the run; by default its first
    config.number = 0  # of the network: its seed
    config.prefix = "The value of the"
    config.count = 5  # suggestions
    config.length = 30  # symbols to sample after it
    config.temperature = 0.8
    config.beam = 0  # continuations to find by beam search, and its width; 0 for none
    config.beam_length = 4  # symbols of each
    config.seed = 0
    return config
