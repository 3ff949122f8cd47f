"""The columns of every result table, declared once: name, type, unit, meaning."""
