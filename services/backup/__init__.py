"""Backup and restore of an embedded house: one instant of all its SQLite files, checked before it is put back."""
