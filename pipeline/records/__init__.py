"""Records from documents: sentence pairs, masking, serialized shards."""
