"""History from a file into the house, through the same door as everything else."""
