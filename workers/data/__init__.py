"""What clients hold: images, how they are drawn, split and owned, and their frozen features."""
