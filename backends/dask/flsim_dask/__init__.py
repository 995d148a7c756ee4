"""The Dask backend: ClientApps in the workers of a Dask cluster, one of this host or one that runs already."""
