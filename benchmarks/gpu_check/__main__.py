"""Run the check."""

from .main import main

main()
