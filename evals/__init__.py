"""Evaluation: questions with known answers run through the gateway's own functions, and metrics of the results."""
