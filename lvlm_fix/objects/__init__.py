"""Which objects a text names: COCO's 80 by CHAIR's vocabulary, or those of a list."""

from lvlm_fix.objects.extract import Mention, mentions, nodes, surfaces
from lvlm_fix.objects.spots import Spot, coco, listed

__all__ = ["Mention", "Spot", "coco", "listed", "mentions", "nodes", "surfaces"]
