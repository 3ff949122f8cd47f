"""Stores, tables and files: complete or absent, checksummed, of one run."""
