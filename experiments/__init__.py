"""Scripts: flags in, results out. They use public names of the library only."""
