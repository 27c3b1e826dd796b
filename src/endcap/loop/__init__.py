"""The product: a staircase from data to retraining, where each floor knows only those below it.

What several floors need lives on the lowest that needs it; what a floor needs from above is handed to it.
"""
