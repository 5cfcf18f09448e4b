"""Caches: where the records in use are kept."""
