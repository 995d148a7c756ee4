"""The Ray backend: ClientApps as tasks of a Ray cluster, on this host or on many."""
