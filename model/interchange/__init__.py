"""Checkpoints of other formats: read into what a run is made of, and written from one."""

from model.interchange.imported import Imported
from model.interchange.reading import read_checkpoint

__all__ = ["Imported", "read_checkpoint"]
