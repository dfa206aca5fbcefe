"""The Beam jobs: count words, and write the shards of a dataset."""
