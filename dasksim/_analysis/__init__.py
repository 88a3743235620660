"""Statistics, plots and reports of stores and datasets, chunk by chunk."""
