"""The model "small": an adapter and a list of tokens here, a language model of the hub under it."""
