"""The loky backend: ClientApps in processes of this host."""
