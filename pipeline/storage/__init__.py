"""Files on disk or in object storage: whole or not at all, locked, verified."""
