"""From a pipeline to a Dask graph, or to chunks that workers simulate and write."""
