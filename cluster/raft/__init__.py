"""The consensus algorithm as a pure state machine."""
