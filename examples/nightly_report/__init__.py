"""A report that is written once a night, whichever replica of a plain script does it."""
