"""What a served model's weights are stored and multiplied in."""

from typing import Literal

ServingPrecision = Literal["float32", "bfloat16"]
"""What is answered is float32 in any case."""
