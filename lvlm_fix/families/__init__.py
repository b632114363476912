"""What differs between model families. Most need nothing: `Family` finds it in the model itself."""

from lvlm_fix.families.family import Family, family_of

__all__ = ["Family", "family_of"]
