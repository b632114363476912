"""The core: which text a forward pass belongs to, and the edits of its layers."""
