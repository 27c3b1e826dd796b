"""Monitoring: the truth that arrives later, the live error, and the incidents that someone must see.

This room looks and says; what is done about it is decided in ``retraining``.
"""
