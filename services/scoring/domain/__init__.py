"""Scoring's rules, pure: snapshots in, transitions and due times out. Nothing here knows a clock or a database."""
