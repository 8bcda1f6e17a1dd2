"""The hosts of a cluster: cell shards run there, through dask.distributed."""
