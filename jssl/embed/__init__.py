"""Features of images in a Parquet file, and their nearest neighbours."""

from jssl.embed.run import Pretrained, embed
from jssl.embed.store import Embeddings, read

__all__ = ["Embeddings", "Pretrained", "embed", "read"]
