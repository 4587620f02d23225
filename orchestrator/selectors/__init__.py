"""Rules that choose whom to ask. One file each."""
