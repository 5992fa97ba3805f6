"""What a person reads: files written whole, tables, plots, pages."""
