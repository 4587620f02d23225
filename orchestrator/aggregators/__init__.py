"""Rules that make one step of many updates. One file each."""
