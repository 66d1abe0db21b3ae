"""The log: one port, an embedded adapter on SQLite files and one on Apache Kafka."""
