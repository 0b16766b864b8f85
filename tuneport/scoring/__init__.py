"""Batch scoring: every row of a file of any size, in order, with a journal from which an interrupted run continues."""
