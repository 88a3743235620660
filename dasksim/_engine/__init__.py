"""Stages bound to each other, and their evaluation on a sub-batch in memory; no Dask, and no store."""
