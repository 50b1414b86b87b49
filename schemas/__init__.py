"""The contracts: Avro schemas, the events generated from them, the table of topics and the codec. It does not import ``rag``."""
