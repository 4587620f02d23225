"""What Quorate costs and what its methods reach, measured: `make bench` writes docs/benchmarks.md.

Measures the product from outside, through the doors that it has. Nothing in the product knows of it.
"""
