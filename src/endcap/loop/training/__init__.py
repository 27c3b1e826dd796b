"""Training: what a candidate is, what a fit is, and the forms in which a fit may rest.

A fit rests as text, arrays or JSON, never as a serialised object: reading a version back runs no code that came with it.
Files of other libraries are looked at strictly before those libraries read them (``model_files``).
"""
