"""Jobs as forks of one process that has imported everything, so that none waits for imports."""
