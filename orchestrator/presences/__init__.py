"""When simulated clients are there. One file each."""
