"""What the entry point names: lmms-eval reads it, and so is there."""

from lmms_eval.models.registry_v2 import (  # pyright: ignore[reportMissingImports]: not needed here
    ModelManifest,
)

MANIFEST = ModelManifest(model_id="lvlm_fix", chat_class_path="lvlm_eval.lmms.model.LvlmFix")
