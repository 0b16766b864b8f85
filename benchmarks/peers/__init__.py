"""Services and scripts that others would write for the same model, each as its library's documentation shows."""
