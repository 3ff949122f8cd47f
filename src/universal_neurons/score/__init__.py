"""From best matches to scores of every neuron, their errors and what chance reaches."""
