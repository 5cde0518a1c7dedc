"""Scripts: flags in, results out. They use the library's public names."""
