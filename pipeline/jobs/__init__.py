"""Beam jobs: count the words of a corpus, write the shards of a dataset."""
