"""Names of the kit, until every test imports it."""
# ruff: noqa: F401

from kit import ROOT
from kit.artifacts import change_byte, reseal
from kit.command import Answer, tuneport
from kit.data import MARGIN, SPLIT_ROWS, read_rows, write_data, write_rows
from kit.encoders import LABELS, MAX_LENGTH, build_checkpoint
from kit.reference import TorchReference
from kit.servers import Server
from kit.texts import SEED, WORDS, random_texts
