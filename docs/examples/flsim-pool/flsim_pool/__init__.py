"""A backend of Python's own process pools."""
