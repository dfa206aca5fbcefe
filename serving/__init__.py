"""A trained run to a SavedModel that takes raw strings, and a server and client for it."""
