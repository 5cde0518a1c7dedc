"""From Gaussians to pictures."""
