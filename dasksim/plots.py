"""Plots of stores and datasets larger than memory; they need Matplotlib (``pip install "dasksim[plots]"``).

All samples are counted, chunk by chunk, with one chunk for each worker in memory.
"""

from dasksim._analysis.bands import predictive_bands
from dasksim._analysis.panels import marginals, pairs
from dasksim._analysis.rates import acceptance, model_frequencies

__all__ = ["acceptance", "marginals", "model_frequencies", "pairs", "predictive_bands"]
