"""Reading and checking labelled data."""
