"""What the entry point names. lmms-eval reads it when its models are imported, and so is there."""

from typing import Any


def __getattr__(name: str) -> Any:
    """`MANIFEST`. It is made when asked for: importing lmms-eval's registry reads all entry points,
    and so this module, which must be whole by then whoever imports it first.
    """
    if name != "MANIFEST":
        raise AttributeError(name)
    from lmms_eval.models.registry_v2 import (  # pyright: ignore[reportMissingImports]: not needed
        ModelManifest,
    )

    return ModelManifest(model_id="lvlm_fix", chat_class_path="lvlm_eval.lmms.model.LvlmFix")
