"""Float networks by name, their weights, and switchable networks built from names."""
