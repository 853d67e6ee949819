"""Shells only: each parses, calls one library function, and renders its result."""
