"""Explain a model's computation and answers for one text or pair: attention, attributions."""
