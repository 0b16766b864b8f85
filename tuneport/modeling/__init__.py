"""Model code that fine-tuning and export share: heads, adapters, position limits. Needs torch."""
