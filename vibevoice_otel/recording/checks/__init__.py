"""Was it speech, and was it the text? Checks of the audio and of its length, off the model's thread and bounded in
cost.
"""
