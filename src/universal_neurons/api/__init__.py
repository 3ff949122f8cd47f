"""A finished run as a Python object, and correlations without a workflow."""
