"""Checkpoints of other formats: read into what a run is made of, and written from one."""

from model.interchange.detect import read_checkpoint
from model.interchange.foreign_checkpoint import Imported

__all__ = ["Imported", "read_checkpoint"]
