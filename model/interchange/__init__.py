"""Import checkpoints of other formats as runs, and export runs to other formats."""

from model.interchange.detect import read_checkpoint
from model.interchange.foreign_checkpoint import Imported

__all__ = ["Imported", "read_checkpoint"]
