"""Labelled examples to a tuned run: read, encode, train with the project's one loop, evaluate."""
