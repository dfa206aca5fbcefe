"""Corpus files, of any format and compression, to documents."""
