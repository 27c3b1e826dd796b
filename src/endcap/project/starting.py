"""starting"""
