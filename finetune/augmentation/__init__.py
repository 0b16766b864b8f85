"""Creates train rows from the user's own rows, and from unlabelled data."""
