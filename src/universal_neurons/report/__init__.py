"""The report of a run: sentences, tables and figures made from its result tables."""
