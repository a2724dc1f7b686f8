"""The backbone of a run as a folder for another library.

The folder has the weights, their description and a model card.
"""
