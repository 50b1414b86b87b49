"""The contracts: Avro schemas, the events generated from them, the table of topics and the codec. Imports nothing of rag."""
