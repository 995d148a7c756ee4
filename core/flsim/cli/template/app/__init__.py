"""A federated app: a server, a client, their model and their data."""
