"""What there is to do and what it costs: configuration, grid of cells, cost of every rule."""
