"""The contracts of Quorate: pydantic models only. No I/O, no torch, no decisions."""
