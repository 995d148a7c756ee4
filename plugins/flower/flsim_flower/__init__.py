"""Unmodified Flower apps on every backend of flsim."""
