"""How one image becomes views: recipes as data, operations that draw parameters and then apply them, the jigsaw."""
