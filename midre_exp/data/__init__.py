"""Image sets: one file per dataset. Images are uint8 in memory and float32 in [0, 1] wherever they cross a boundary."""

from midre_exp.data.base import Dataset, ImageSet, Part, Role, to_float

__all__ = ["Dataset", "ImageSet", "Part", "Role", "to_float"]
