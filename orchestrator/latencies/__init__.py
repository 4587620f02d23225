"""How long simulated clients take. One file each."""
