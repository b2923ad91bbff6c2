"""Simulated Human Protein Atlas fields of view: cells, stains, the 19 protein patterns, and the camera."""
