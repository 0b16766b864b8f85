"""What the tests share: tiny seeded models, data for them, torch's reference answers, and the command line."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The repository."""
