"""All photographs of a source, listed on disk: a run over millions of them keeps none of them in memory."""
