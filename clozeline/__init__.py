"""The front door: the `clozeline` command, its flags and what it prints."""
