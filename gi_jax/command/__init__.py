"""What the command `gi` does."""
