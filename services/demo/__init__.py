"""A minute with real purchases: what the house does when nobody does anything any more."""
