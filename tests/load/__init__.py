"""Load that is kept up: the door asked for more than it can take, and a whole house under steady work."""
