"""The shapes in which VibeVoice is served: written from what such servers do, each observed as it is and counted
independently.
"""
