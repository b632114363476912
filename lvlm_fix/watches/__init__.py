"""What methods may need beside the tensor they edit: one need per file.

A watch is a frozen dataclass that a method declares (`Method.watches`) and reads (`at[watch]`).
"""

from lvlm_fix.watches.answer_rows import AnswerRows, NewRow
from lvlm_fix.watches.branch import Branch
from lvlm_fix.watches.calibrated import Calibrated, Levels
from lvlm_fix.watches.column_means import ColumnMeans
from lvlm_fix.watches.disturbed_prompt import DisturbedPrompt
from lvlm_fix.watches.early_layers import EarlyLayers
from lvlm_fix.watches.evidence import Evidence, Supported, half
from lvlm_fix.watches.first_token import FirstToken
from lvlm_fix.watches.heads import HeadRule, Picked, PickedHeads, upper_half
from lvlm_fix.watches.image_map import ImageMap, brought_up
from lvlm_fix.watches.image_shift import ImageShift
from lvlm_fix.watches.kept_tokens import KeptTokens, LeastSeen, MostSeen, TowerPicked
from lvlm_fix.watches.no_image import WithoutImage
from lvlm_fix.watches.noised_image import NoisedImage, diffused
from lvlm_fix.watches.risk import Risk
from lvlm_fix.watches.rows import LastRows, TextRows
from lvlm_fix.watches.sinks import ChannelSinks, ReceivedSinks, sink_masks
from lvlm_fix.watches.steering import Steering
from lvlm_fix.watches.textual_layer import TextualLayer, textual
from lvlm_fix.watches.tower import ClsRows
from lvlm_fix.watches.tower_looks import TowerLooks, local_and_summary
from lvlm_fix.watches.tower_steering import TowerSteering
from lvlm_fix.watches.views import NoImage, View
from lvlm_fix.watches.written import AnswerTokens, EndTokens, Written

__all__ = [
    "AnswerRows",
    "AnswerTokens",
    "Branch",
    "Calibrated",
    "ChannelSinks",
    "ClsRows",
    "ColumnMeans",
    "DisturbedPrompt",
    "EarlyLayers",
    "EndTokens",
    "Evidence",
    "FirstToken",
    "HeadRule",
    "ImageMap",
    "KeptTokens",
    "ImageShift",
    "LastRows",
    "LeastSeen",
    "Levels",
    "NewRow",
    "MostSeen",
    "NoImage",
    "NoisedImage",
    "Picked",
    "PickedHeads",
    "ReceivedSinks",
    "Risk",
    "Supported",
    "Steering",
    "TextRows",
    "TextualLayer",
    "TowerLooks",
    "TowerSteering",
    "TowerPicked",
    "View",
    "WithoutImage",
    "Written",
    "brought_up",
    "diffused",
    "half",
    "local_and_summary",
    "sink_masks",
    "textual",
    "upper_half",
]
