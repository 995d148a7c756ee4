"""The ways that work can go: the engine on a backend, the bare references, and Flower's engine.

Each module has ``drive(order, play)``, which opens its way, calls ``play`` with it, closes it, and returns what
``play`` returned.
"""
