"""Benchmark of dsfast against its peers; see README.md in this folder."""
