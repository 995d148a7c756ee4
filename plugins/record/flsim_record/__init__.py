"""Keeps runs in folders, and shows them."""
