"""A tokenized document, as Beam elements carry it."""

import numpy as np

Document = tuple[bytes, bytes, bytes, bytes, bytes]
"""A tokenized document: key, piece ids (dtype `piece_type`), sentence lengths (dtype `LENGTH`), the
label for the record of rejections (`pipeline.corpus.cleaning.label_of`; empty if none is written),
and its paragraphs or lines (dtype `UNIT`; empty unless these are compared). They are bytes because
Beam serializes bytes fastest."""

LENGTH = np.dtype("<i4")  # explicit byte order: workers may have different machines

UNIT = np.dtype([("hash", "<u8"), ("sentences", "<i4")])
"""A paragraph or line: hash of its words, number of its sentences, at least 1."""
