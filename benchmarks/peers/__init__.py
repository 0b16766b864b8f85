"""Services that others would write for the same model, each as its framework's documentation shows."""
