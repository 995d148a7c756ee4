"""Known bugs, planted one by one: the tests must find each. Run it from the root: ``python -m tests.mutants``."""
