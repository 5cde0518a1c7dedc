"""From pictures to Gaussians."""
