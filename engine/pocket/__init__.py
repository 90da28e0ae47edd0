"""The embedded model: a small Moshi that ships with the package, its prompt's template, and the recipe that made it.

What it was trained on, what it can and cannot do, and whose voices are behind it: MODEL_CARD.md.
"""

from pathlib import Path

FOLDER = Path(__file__).parent
"""A checkpoint of the published form, with an ear; loaded as any other."""
