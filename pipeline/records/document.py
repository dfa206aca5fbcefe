"""A tokenized document, as Beam elements carry it."""

import numpy as np

Document = tuple[bytes, bytes, bytes, bytes]
"""A tokenized document: key, piece ids (dtype `piece_type`), sentence lengths (dtype `LENGTH`), and
the label for the record of rejections (`pipeline.corpus.cleaning.label_of`; empty if none is
written). They are bytes because Beam serializes bytes fastest."""

LENGTH = np.dtype("<i4")  # explicit byte order: workers may have different machines
