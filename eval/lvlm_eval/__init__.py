"""Evaluation of vision-language models: CHAIR, POPE, runs, paired comparison, report."""
