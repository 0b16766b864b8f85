"""Names of the kit, until every test imports it."""
# ruff: noqa: F401

from kit.data import QUICK, read_splits, write_splits
from kit.encoders import FAMILIES, MAX_LENGTH, SIZES, tiny_encoder
from kit.generative import nested_byte_level
from kit.texts import SEED, WORDS
