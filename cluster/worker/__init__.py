"""A worker process and its executor children."""
