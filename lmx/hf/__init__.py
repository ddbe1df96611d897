"""Hugging Face folders: written and read through a model's table, without torch."""
