"""Export a tiny random model of each classification architecture of transformers, and compare it with torch."""
