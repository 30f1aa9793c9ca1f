"""Thumbnails of real photographs, made by a cluster that loses its leading broker half-way."""
