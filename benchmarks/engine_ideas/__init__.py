"""What each idea for a faster engine on CPUs gives, measured side by side on one checkpoint."""
