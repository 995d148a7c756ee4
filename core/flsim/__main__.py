"""``python -m flsim``."""

from flsim.cli import main

main()
