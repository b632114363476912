"""How well each word of a finished text rests on the picture: `lf.grounding.ground`."""

from lvlm_fix.grounding.finished import ground
from lvlm_fix.grounding.found import SIGNALS, Grounding
from lvlm_fix.grounding.measured import Measured, measure
from lvlm_fix.grounding.words import Word, words_of

__all__ = ["SIGNALS", "Grounding", "Measured", "Word", "ground", "measure", "words_of"]
