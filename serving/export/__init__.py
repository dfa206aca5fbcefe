"""A run to a version of a SavedModel: signatures, graphs, checks, warm-up requests."""
