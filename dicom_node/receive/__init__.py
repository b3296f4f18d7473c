"""Receiving: the listener, its associations, its STOW-RS endpoint, and one instance from first byte to status."""
