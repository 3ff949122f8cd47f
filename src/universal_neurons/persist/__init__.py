"""Which universal neurons stay from step to step, and where functions move."""
