"""The domain: what a document becomes, and how a question is answered from it."""
