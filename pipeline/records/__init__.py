"""Documents to records: sentence pairs, masks, the bytes of a shard."""
