"""What uses `fix` on many photos, or shows it: the command line, scoring, grounding, bench."""
