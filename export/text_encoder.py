"""Moved to `export.new_items.text_encoder`. To be removed."""

from export.new_items.text_encoder import *  # noqa: F403
from export.new_items.text_encoder import TEXT_ENCODER

FORMAT, VERSION = TEXT_ENCODER.format, TEXT_ENCODER.version
