"""Raw text to TFRecords of masked sentence pairs, as an Apache Beam job."""
