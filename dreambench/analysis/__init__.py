"""From numbers to statements: statistics, summaries, comparisons. No torch."""
