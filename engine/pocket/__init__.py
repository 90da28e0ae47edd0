"""The embedded model: a small Moshi that ships with the package, its prompt's template, and the recipe that made it."""
