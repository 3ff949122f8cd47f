"""The figures of the report, by topic, and the registry that names them."""
