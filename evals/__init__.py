"""Questions with known answers, asked through the same functions as the gateway's, and what the answers are worth."""
