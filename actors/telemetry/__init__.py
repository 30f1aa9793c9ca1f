"""What an operator sees: structured events."""
