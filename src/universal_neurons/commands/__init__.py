"""What a user asks at the command line, beside running the workflow."""
