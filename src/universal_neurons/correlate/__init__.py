"""Best matches between two models' neurons, and the baselines they are held against."""
