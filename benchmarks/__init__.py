"""Benchmarks for `make bench`: Clozeline and its peers, measured in the same run."""
