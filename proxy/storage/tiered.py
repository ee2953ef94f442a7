"""L1 and one L2 as one store."""
