"""From Gaussians to bytes and back."""
