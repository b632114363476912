"""What differs between model families. Most need nothing: `Family` finds it in the model itself."""

from lvlm_fix.families.family import Family, entering, family_of, mlp_of

__all__ = ["Family", "entering", "family_of", "mlp_of"]
