"""One study per method, in the setting that its paper claims something of: `make bench-methods METHOD=x`."""
