"""Another number of partitions: the log copied in order to a new one, and the house's state carried over."""
