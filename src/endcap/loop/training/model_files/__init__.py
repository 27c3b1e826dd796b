"""Model files of other libraries: LightGBM's text, skops archives, ONNX graphs.

They come from whoever may log a run, and their own readers trust them: a few changed bytes end the process or keep it busy for ever. What
lives here looks at bytes, says what is wrong with them, and gives back only what a reader may be handed. It loads none of those libraries.
"""
