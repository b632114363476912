"""CHAIR: which objects a caption names, and how many of them are not in the picture."""

from lvlm_eval.chair.score import Judgement, figures, judge, labelled, score
from lvlm_fix.objects.extract import Mention, mentions, nodes

__all__ = ["Judgement", "Mention", "figures", "judge", "labelled", "mentions", "nodes", "score"]
