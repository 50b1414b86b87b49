"""Answers to questions, with citations: retrieval, reranking, generation, and the cache of answers."""
